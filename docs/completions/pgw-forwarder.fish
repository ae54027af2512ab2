complete -c pgw-forwarder -l exporter-addr -d 'Address of the exporter: host:port, [v6]:port, an http:// or https:// URL, or unix:/path of a socket' -r
complete -c pgw-forwarder -l exporter-metric -d 'Path of the metrics; a query selects some of them: metrics?collect[]=cpu' -r
complete -c pgw-forwarder -l probe-timeout -d 'Timeout for the connection to the exporter, in seconds (0.001 to 86400)' -r
complete -c pgw-forwarder -l scrape-timeout -d 'Timeout for the exporter\'s complete response, in seconds (0.001 to 86400)' -r
complete -c pgw-forwarder -l max-bytes -d 'Refuse a response that is larger than this many bytes' -r
complete -c pgw-forwarder -l pgw-addr -d 'Address of the Pushgateway: host:port, [v6]:port, or an http:// or https:// URL, with its path prefix; several, separated by commas, get the same push; a password in it belongs in the variable, since every user can read arguments' -r
complete -c pgw-forwarder -l pgw-job -d 'Label job of the grouping key; with --prune, the only job to prune [default: node; with --prune, all]' -r
complete -c pgw-forwarder -l pgw-instance -d 'Label instance of the grouping key [default: this host\'s name]' -r
complete -c pgw-forwarder -l pgw-label -d 'Further label of the grouping key; repeatable; the variable takes several, separated by commas' -r
complete -c pgw-forwarder -l pgw-method -d 'put replaces the whole group; post replaces only the families that are pushed' -r -f -a "post\t''
put\t''"
complete -c pgw-forwarder -l pgw-compression -d 'Compression of pushes; gzip needs Pushgateway 1.5.0 or VictoriaMetrics' -r -f -a "none\t''
gzip\t''"
complete -c pgw-forwarder -l push-timeout -d 'Timeout for a push and the gateway\'s response, in seconds (0.001 to 86400)' -r
complete -c pgw-forwarder -l splay -d 'Spread the pushes of a fleet over this many seconds (0 to 86400); each grouping key waits for its own, fixed share of them' -r
complete -c pgw-forwarder -l lock-file -d 'The lock file [default: one for each gateway and grouping key, in /run/pgw-forwarder, /run/user/UID or $TMPDIR/pgw-forwarder-UID]' -r -F
complete -c pgw-forwarder -l prune -d 'On the monitoring host: delete the groups whose last push is more than this many seconds (1 to 315360000) ago by the gateway\'s clock, and do nothing else; --push-timeout applies to each request' -r
complete -c pgw-forwarder -l exporter-user -d 'User for basic auth; the password is in EXPORTER_PASSWORD or in the file of the next option' -r
complete -c pgw-forwarder -l exporter-password-file -d 'File with the password; a newline at its end is ignored' -r
complete -c pgw-forwarder -l exporter-token-file -d 'File with a bearer token, instead of EXPORTER_TOKEN; a newline at its end is ignored' -r
complete -c pgw-forwarder -l exporter-cacert -d 'PEM file of the CAs to trust instead of the system\'s' -r
complete -c pgw-forwarder -l exporter-cert -d 'PEM file of this host\'s certificate and its chain, for a server that requires one' -r
complete -c pgw-forwarder -l exporter-key -d 'PEM file of the private key of that certificate, not encrypted' -r
complete -c pgw-forwarder -l pgw-user -d 'User for basic auth; the password is in PGW_PASSWORD or in the file of the next option' -r
complete -c pgw-forwarder -l pgw-password-file -d 'File with the password; a newline at its end is ignored' -r
complete -c pgw-forwarder -l pgw-token-file -d 'File with a bearer token, instead of PGW_TOKEN; a newline at its end is ignored' -r
complete -c pgw-forwarder -l pgw-cacert -d 'PEM file of the CAs to trust instead of the system\'s' -r
complete -c pgw-forwarder -l pgw-cert -d 'PEM file of this host\'s certificate and its chain, for a server that requires one' -r
complete -c pgw-forwarder -l pgw-key -d 'PEM file of the private key of that certificate, not encrypted' -r
complete -c pgw-forwarder -l exporter-allow-unframed -d 'Accept a response with neither Content-Length nor chunked encoding; its truncation may go undetected'
complete -c pgw-forwarder -l report-failures -d 'If the run ends with exit status 4 or 5, push that status to another group: job pgw_forwarder, forwarded_job JOB'
complete -c pgw-forwarder -l dry-run -d 'Scrape, and write to stdout what would be pushed; with --prune, what would be deleted; without lock and splay'
complete -c pgw-forwarder -l delete -d 'Delete this node\'s group and its report from the gateway, and do nothing else'
complete -c pgw-forwarder -s v -l verbose -d 'Log each step; -vv logs requests as well; overrides RUST_LOG [default: warn]'
complete -c pgw-forwarder -s q -l quiet -d 'Log nothing, not even an error; the exit status and the output of --dry-run stay'
complete -c pgw-forwarder -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgw-forwarder -s V -l version -d 'Print version'
