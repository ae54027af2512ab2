_pgw__forwarder() {
    local i cur prev opts cmd
    COMPREPLY=()
    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
        cur="$2"
    else
        cur="${COMP_WORDS[COMP_CWORD]}"
    fi
    prev="$3"
    cmd=""
    opts=""

    for i in "${COMP_WORDS[@]:0:COMP_CWORD}"
    do
        case "${cmd},${i}" in
            ",$1")
                cmd="pgw__forwarder"
                ;;
            *)
                ;;
        esac
    done

    case "${cmd}" in
        pgw__forwarder)
            opts="-v -q -h -V --exporter-addr --exporter-metric --exporter-allow-unframed --probe-timeout --scrape-timeout --max-bytes --pgw-addr --pgw-job --pgw-instance --pgw-label --pgw-method --pgw-compression --push-timeout --report-failures --splay --lock-file --dry-run --delete --prune --verbose --quiet --exporter-user --exporter-password-file --exporter-token-file --exporter-cacert --exporter-cert --exporter-key --pgw-user --pgw-password-file --pgw-token-file --pgw-cacert --pgw-cert --pgw-key --help --version"
            if [[ ${cur} == -* || ${COMP_CWORD} -eq 1 ]] ; then
                COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
                return 0
            fi
            case "${prev}" in
                --exporter-addr)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --exporter-metric)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --probe-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --scrape-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --max-bytes)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pgw-addr)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pgw-job)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pgw-instance)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pgw-label)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pgw-method)
                    COMPREPLY=($(compgen -W "post put" -- "${cur}"))
                    return 0
                    ;;
                --pgw-compression)
                    COMPREPLY=($(compgen -W "none gzip" -- "${cur}"))
                    return 0
                    ;;
                --push-timeout)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --splay)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --lock-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --prune)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --exporter-user)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --exporter-password-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --exporter-token-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --exporter-cacert)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --exporter-cert)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --exporter-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pgw-user)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pgw-password-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pgw-token-file)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pgw-cacert)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pgw-cert)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                --pgw-key)
                    COMPREPLY=($(compgen -f "${cur}"))
                    return 0
                    ;;
                *)
                    COMPREPLY=()
                    ;;
            esac
            COMPREPLY=( $(compgen -W "${opts}" -- "${cur}") )
            return 0
            ;;
    esac
}

if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -F _pgw__forwarder -o nosort -o bashdefault -o default pgw-forwarder
else
    complete -F _pgw__forwarder -o bashdefault -o default pgw-forwarder
fi
