complete -c pgw-forwarder -l exporter-addr -d 'The exporter: host:port, [v6]:port, an http:// or https:// URL, or unix:/path of a socket' -r
complete -c pgw-forwarder -l exporter-metric -d 'The path of its metrics; a query is allowed: metrics?collect[]=cpu' -r
complete -c pgw-forwarder -l probe-timeout -d 'Seconds (0.001 to 86400) within which the exporter has to accept the connection' -r
complete -c pgw-forwarder -l scrape-timeout -d 'Seconds (0.001 to 86400) within which the response has to be complete' -r
complete -c pgw-forwarder -l max-bytes -d 'Refuse a response of more bytes' -r
complete -c pgw-forwarder -l pgw-addr -d 'The Pushgateway: host:port, [v6]:port, or an http:// or https:// URL, with a path prefix if it has one; several, separated by commas, all get the same' -r
complete -c pgw-forwarder -l pgw-job -d 'The label job of the grouping key; for --prune, if it is given, the only job to prune' -r
complete -c pgw-forwarder -l pgw-instance -d 'The label instance of the grouping key [default: this host\'s name]' -r
complete -c pgw-forwarder -l pgw-label -d 'A further label of the grouping key; repeatable; the variable takes several, separated by commas' -r
complete -c pgw-forwarder -l pgw-method -d 'post replaces the families of the group that are pushed, put replaces the whole group' -r -f -a "post\t''
put\t''"
complete -c pgw-forwarder -l pgw-compression -d 'Compress pushes: VictoriaMetrics and Pushgateways since 1.5.0 take gzip' -r -f -a "none\t'Not at all'
gzip\t'As `Content-Encoding: gzip`'"
complete -c pgw-forwarder -l push-timeout -d 'Seconds (0.001 to 86400) within which a gateway has to read the push and answer' -r
complete -c pgw-forwarder -l splay -d 'Sleep a share of this many seconds (0 to 86400) first, fixed for each grouping key, so that a fleet does not push in the same second' -r
complete -c pgw-forwarder -l lock-file -d 'The lock file [default: one for each gateway and grouping key, in /run/pgw-forwarder, /run/user/UID, or pgw-forwarder-UID in the directory for temporary files]' -r -F
complete -c pgw-forwarder -l prune -d 'On the monitoring host: delete the groups whose last push is more than this many seconds (1 to 315360000) ago by the gateway\'s clock, and do nothing else; each of its requests may take as long as a push' -r
complete -c pgw-forwarder -l exporter-user -d 'User for basic auth; the password comes from EXPORTER_PASSWORD or the next option' -r
complete -c pgw-forwarder -l exporter-password-file -d 'File with the password; a newline at its end is not part of it' -r
complete -c pgw-forwarder -l exporter-token-file -d 'File with a bearer token, which can also come from EXPORTER_TOKEN' -r
complete -c pgw-forwarder -l exporter-cacert -d 'Trust the CAs in this PEM file, not the system\'s' -r
complete -c pgw-forwarder -l exporter-cert -d 'This host\'s certificate (PEM, with its chain), for a server that wants one' -r
complete -c pgw-forwarder -l exporter-key -d 'The private key of that certificate (PEM, not encrypted)' -r
complete -c pgw-forwarder -l pgw-user -d 'User for basic auth; the password comes from PGW_PASSWORD or the next option' -r
complete -c pgw-forwarder -l pgw-password-file -d 'File with the password; a newline at its end is not part of it' -r
complete -c pgw-forwarder -l pgw-token-file -d 'File with a bearer token, which can also come from PGW_TOKEN' -r
complete -c pgw-forwarder -l pgw-cacert -d 'Trust the CAs in this PEM file, not the system\'s' -r
complete -c pgw-forwarder -l pgw-cert -d 'This host\'s certificate (PEM, with its chain), for a server that wants one' -r
complete -c pgw-forwarder -l pgw-key -d 'The private key of that certificate (PEM, not encrypted)' -r
complete -c pgw-forwarder -l exporter-allow-unframed -d 'Accept a response without Content-Length and chunks, whose end is that of the connection: its truncation may go undetected'
complete -c pgw-forwarder -l report-failures -d 'If the exporter is down (exit status 4) or its response unusable (5), push that status to a group of its own: job pgw_forwarder, forwarded_job JOB'
complete -c pgw-forwarder -l dry-run -d 'Scrape, and write to stdout what would be pushed, or with --prune what would be deleted; takes no lock, sleeps no splay'
complete -c pgw-forwarder -l delete -d 'Delete this node\'s group from the gateway, and do nothing else'
complete -c pgw-forwarder -s v -l verbose -d 'Log more: -v what is done, -vv how; without it, RUST_LOG decides [default: warn]'
complete -c pgw-forwarder -s q -l quiet -d 'Print nothing, not even why a run failed'
complete -c pgw-forwarder -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgw-forwarder -s V -l version -d 'Print version'
