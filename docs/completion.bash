# Completion of `python -m src.train` and the other commands: groups, their choices, keys, options.
#
#   source docs/completion.bash            bash, from the root of the repository
#   autoload -Uz bashcompinit && bashcompinit && source docs/completion.bash            zsh
#
# Hydra's own `--shell-completion install=bash` knows `python FILE` and installed programs, but not
# `python -m MODULE`. It is Hydra that answers here too; no command imports torch to answer.

_block_selection_completion() {
    local line=${COMP_LINE:0:COMP_POINT} python=python module="" word choices="" at
    local words=($line)
    for at in "${!words[@]}"; do
        [[ ${words[at]} == -m && ${words[at + 1]} == src.* ]] && module=${words[at + 1]}
    done
    [[ ${words[0]} == *python* ]] && python=${words[0]}
    COMPREPLY=()
    [[ $module && $line == *"$module "* ]] || return 0  # files, as ever
    line=${line#*"$module "}
    word=${line##* }
    case $module:$word in
        src.train:-* | src.evaluate:-* | src.data:-*) choices="--help --multirun --cfg job" ;;
        *:-*) choices=$("$python" -m "$module" --help 2>/dev/null | grep -oE -- '--[a-z-]+' | sort -u) ;;
        src.train:* | src.evaluate:* | src.data:* | src.search:*)
            [[ $module == src.search ]] && module=src.train
            choices=$(COMP_LINE="$module $line" "$python" -m "$module" -sc query=bash 2>/dev/null) ;;
    esac
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
    if [[ $COMP_WORDBREAKS == *=* && $word == *=* ]]; then  # the shell replaces what is behind the "="
        COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
    fi
}

complete -o nospace -o default -F _block_selection_completion python python3 torchrun
