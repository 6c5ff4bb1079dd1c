# Completion of minke for bash. Commands and options come from the program's own help, so nothing is listed here twice.

_minke() {
    local word=${COMP_WORDS[COMP_CWORD]} program=${COMP_WORDS[0]} command=${COMP_WORDS[1]:-}
    if [ "$COMP_CWORD" -eq 1 ] || { [ "$command" = help ] && [ "$COMP_CWORD" -eq 2 ]; }; then
        local commands
        commands=$("$program" --help 2>/dev/null | sed -n 's/^  \([a-z][a-z-]*\) .*/\1/p')
        mapfile -t COMPREPLY < <(compgen -W "$commands --help --version" -- "$word")
        return
    fi
    if [[ $word == -* ]]; then
        local options
        options=$("$program" "$command" --help 2>/dev/null | sed -n 's/^  .*\(--[a-z][a-z0-9-]*\).*/\1/p')
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
        return
    fi
    # The values of an option that has a fixed choice: "... : a|b|c" at the end of its line in the help.
    local previous=${COMP_WORDS[COMP_CWORD - 1]}
    if [[ $previous == --* ]]; then
        local choices
        choices=$("$program" "$command" --help 2>/dev/null | sed -n "s/^  .*$previous .*: \([^ ]*|[^ ]*\)\$/\1/p" | tr '|' ' ')
        if [ -n "$choices" ]; then
            mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$word")
            return
        fi
    fi
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
}
complete -o filenames -F _minke minke
