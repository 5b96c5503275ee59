"""Exceptions that end a command, each with the exit code of docs/usage.md.

A *scientific* failure (diverged, flat) is data and never raised from here: the command writes `status.json` and exits 0.
"""


class PtychoflowError(Exception):
    """Base of every error that a user should read; `exit_code` is what the process returns."""

    exit_code = 70


class UsageError(PtychoflowError):
    """A parameter or option is wrong: unknown name, value out of range, options that exclude each other."""

    exit_code = 64


class ContractError(PtychoflowError):
    """An input file or array violates its contract, or a check command says no."""

    exit_code = 65


class UnavailableError(PtychoflowError):
    """A GPU, external tool or matching code revision was asked for and is absent."""

    exit_code = 69


class NumericalError(PtychoflowError):
    """A computation failed in a way that could not be recorded as data."""

    exit_code = 70


class TransientError(PtychoflowError):
    """Something that may work when tried again."""

    exit_code = 75


class DeviceMemoryError(PtychoflowError):
    """The device ran out of memory."""

    exit_code = 77


def refuse(problems: list[str], *, what: str) -> None:
    """Raise one ContractError that lists every problem; do nothing when there is none.

    Raises:
        ContractError: when `problems` is not empty. All problems are named at once, so one round of repair suffices.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise ContractError(f"{what}: {problems[0]}")
    lines = "\n".join(f"  - {problem}" for problem in problems)
    raise ContractError(f"{what}: {len(problems)} problems\n{lines}")


def check_file_name(name: str, *, what: str) -> None:
    """Refuse a name that is to be part of a file's name and would lead out of its folder, hide, or read as an option.

    Raises:
        UsageError: when it is empty, longer than 100 characters, starts with '.' or '-', or has '/' or a control character.
    """
    if not name.isprintable() or "/" in name or name.startswith((".", "-")) or not 0 < len(name) <= 100:
        raise UsageError(
            f"{what}: {name!r} becomes part of a file's name: expected up to 100 characters without '/' and control "
            "characters, not starting with '.' or '-'"
        )


def nearest(name: str, known: list[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the known name closest to `name`, or an empty string."""
    from difflib import get_close_matches

    found = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean '{found[0]}'?)" if found else ""
