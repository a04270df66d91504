"""`lightning-tl --completion bash|zsh`: a script that completes commands, options, and names of shipped configurations.

The script holds all of it, so that completing starts no Python.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import quote

from lightning_tl.config_files import configs_root
from lightning_tl.errors import UserError

OPTIONS_TABLE = Path(__file__).with_name("completion_options.json")
SHELLS = ("bash", "zsh")
_RUNS = ("pretrain", "finetune", "callbacks")
#: Folders of the shipped configurations that a command takes.
_FOLDERS = {
    "render": ("render",),
    "study": ("study",),
    "quickstart": ("study",),
    **dict.fromkeys(("fit", "validate", "test", "predict", "measure"), _RUNS),
}

# Both shells: what may follow a command (`study` or `study run`), and the values of an option.
_TABLES = """\
_lightning_tl_words() {{ case "$1" in
{words}
esac; }}
_lightning_tl_values() {{ case "$1 $2" in
{values}
esac; }}
"""
_BASH = """\
_lightning_tl() {
  local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} given
  if [[ $current == = ]]; then current=; elif [[ $before == = ]]; then before=${COMP_WORDS[COMP_CWORD-2]}; fi
  local command=${COMP_WORDS[1]}
  if (( COMP_CWORD == 1 )); then command=; fi
  if (( COMP_CWORD > 2 )) && [[ -n $(_lightning_tl_words "$command ${COMP_WORDS[2]}") ]]; then
    command="$command ${COMP_WORDS[2]}"
  fi
  given=$(_lightning_tl_values "$command" "$before")
  if [[ -z $given ]] && [[ $before != --* || $current == -* ]]; then given=$(_lightning_tl_words "$command"); fi
  COMPREPLY=($(compgen -W "$given" -- "$current"))
  if [[ $before == --config ]]; then COMPREPLY+=($(compgen -f -- "$current")); fi
}
complete -o default -F _lightning_tl lightning-tl
"""
_ZSH = """\
_lightning_tl() {
  local before=${words[CURRENT-1]} command=${words[2]}
  local -a given
  if [[ ${words[CURRENT]} == --*=* ]]; then before=${words[CURRENT]%%=*}; compset -P '*='; fi
  if (( CURRENT == 2 )); then command=; fi
  if (( CURRENT > 3 )) && [[ -n $(_lightning_tl_words "$command ${words[3]}") ]]; then
    command="$command ${words[3]}"
  fi
  given=(${=$(_lightning_tl_values "$command" "$before")})
  if (( ! $#given )) && [[ $before != --* || $PREFIX == -* ]]; then given=(${=$(_lightning_tl_words "$command")}); fi
  compadd -a given
  if [[ $before == --config ]] || (( ! $#given )); then _files; fi
}
compdef _lightning_tl lightning-tl
"""


def script(arguments: Sequence[str], commands: Iterable[str]) -> str:
    """Return the script.

    Args:
        arguments: The shell's name.
        commands: All commands.

    Raises:
        UserError: It is another shell.
    """
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise UserError(f"--completion {' '.join(arguments) or 'needs a shell'}: give {' or '.join(SHELLS)}")
    table: dict[str, dict[str, list[str]]] = json.loads(OPTIONS_TABLE.read_text(encoding="utf-8"))
    words: dict[str, list[str]] = {"": [*commands, "--help", "--version", "--completion"], "schema": []}
    values: dict[str, list[str]] = {"--completion --completion": list(SHELLS)}
    for name, options in table.items():
        command, _, action = name.partition(" ")
        if action:
            words.setdefault(command, []).append(action)
        words[name] = [*options, "--help", "--print_config"]
        values.update({f"{name} {option}": given for option, given in options.items() if given})
        if command in _FOLDERS:
            values[f"{name} --config"] = _configs(_FOLDERS[command])
    words["schema"] = [command for command in words if command and " " not in command and command != "schema"]
    tables = _TABLES.format(words=_cases(words), values=_cases(values))
    return tables + (_BASH if arguments[0] == "bash" else _ZSH)


def _configs(folders: Iterable[str]) -> list[str]:
    """Return the names of the shipped configurations in some folders."""
    root = configs_root()
    files = sorted(path for folder in folders for path in (root / folder).rglob("*.yaml"))
    return [path.relative_to(root).with_suffix("").as_posix() for path in files]


def _cases(table: dict[str, list[str]]) -> str:
    return "\n".join(f"{quote(key)}) echo {quote(' '.join(words))};;" for key, words in table.items() if words)
