"""`tierline keys` and `tierline audit`: make, list and revoke keys; check an audit log.

Imports nothing heavy: the work is imported when a command runs.
"""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tierline.cli import EXIT_DONE, EXIT_REFUSED, Command

if TYPE_CHECKING:
    from tierline_serving.access.keys import Key

_SCOPES: Final = ("score", "metrics", "admin")


def _configure_keys(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="create | revoke | list")
    create = actions.add_parser(
        "create",
        help="add a key and print it, this once",
        epilog="example: tierline keys create --file keys.json --scope score --rate 200",
    )
    create.add_argument("--scope", action="append", required=True, choices=_SCOPES)
    create.add_argument("--rate", type=float, help="requests a second; default: no limit")
    create.add_argument("--burst", type=int, help="requests at once; default: one second's worth")
    create.add_argument("--note", default="", help="whose key it is")
    revoke = actions.add_parser(
        "revoke",
        help="take a key out of the file",
        epilog="example: tierline keys revoke 0123456789ab --file keys.json",
    )
    revoke.add_argument("id", help="the key's id, as list prints it")
    listing = actions.add_parser(
        "list",
        help="show the keys without their secrets",
        epilog="example: tierline keys list --file keys.json",
    )
    for each in (create, revoke, listing):
        each.add_argument("--file", type=Path, required=True, help="the key file")
        each.add_argument("--json", action="store_true", help="answer in JSON, for scripts")
    for each in (create, revoke):
        each.add_argument("--audit", type=Path, help="default: the key file's name + .audit")


def _configure_audit(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="verify")
    check = actions.add_parser(
        "verify",
        help="check the chain; exit code 3 when it does not hold",
        epilog="example: tierline audit verify keys.json.audit",
    )
    check.add_argument("file", type=Path, help="the audit log")
    check.add_argument("--head", help="a hash this log had: shows when its end was cut off")
    check.add_argument("--json", action="store_true", help="answer in JSON, for scripts")


def _run_keys(options: argparse.Namespace) -> int:
    from tierline_serving.access.keyring import read_keys, revoke_key

    if options.action == "list":
        keys = [_facts(key) for key in read_keys(options.file).listed()]
        _say(json.dumps(keys) if options.json else "\n".join(map(_line, keys)) or "no keys")
        return EXIT_DONE
    if options.action == "revoke":
        revoke_key(options.file, options.id)
        _record(options, "key.revoke", options.id, {})
        said = json.dumps({"revoked": options.id})
        _say(said if options.json else f"Revoked {options.id}: servers notice within a second.")
        return EXIT_DONE
    return _create(options)


def _create(options: argparse.Namespace) -> int:
    from tierline_serving.access.keyring import create_key
    from tierline_serving.access.scopes import Scope

    burst = options.burst if options.burst is not None else max(1, round(options.rate or 1))
    scopes = frozenset(Scope(scope) for scope in options.scope)
    key, token = create_key(options.file, scopes, rate=options.rate, burst=burst, note=options.note)
    granted = ",".join(sorted(options.scope))
    _record(options, "key.create", key.id, {"scopes": granted, "note": options.note})
    if options.json:
        _say(json.dumps({**_facts(key), "key": token}))
    else:
        _say(f"{token}\nKey {key.id} may {granted}. It is shown this once; keep it safe.")
    return EXIT_DONE


def _run_audit(options: argparse.Namespace) -> int:
    from tierline_serving.access.audit import AuditBroken, verify

    try:
        found = verify(options.file, head=options.head)
    except AuditBroken as broken:
        sys.stderr.write(f"tierline: {broken}\n")
        return EXIT_REFUSED
    facts = {"lines": found.lines, "head": found.head}
    _say(json.dumps(facts) if options.json else f"{found.lines} lines hold; head {found.head}")
    return EXIT_DONE


def _record(options: argparse.Namespace, action: str, subject: str, detail: dict[str, str]) -> None:
    path = options.audit or options.file.with_name(options.file.name + ".audit")
    record_change(path, action, subject, detail)


def record_change(path: Path, action: str, subject: str, detail: dict[str, str]) -> None:
    """Write what somebody changed at the command line into an audit log."""
    from tierline_serving.access.audit import AuditLog

    actor = f"user:{getpass.getuser()}"
    AuditLog(path).append(actor=actor, action=action, subject=subject, detail=detail)


def _facts(key: Key) -> dict[str, object]:
    return {
        "id": key.id,
        "scopes": sorted(scope.value for scope in key.scopes),
        "rate": key.rate,
        "burst": key.burst,
        "created": key.created,
        "note": key.note,
    }


def _line(facts: dict[str, object]) -> str:
    rate = "no limit" if facts["rate"] is None else f"{facts['rate']:g}/s"
    scopes = facts["scopes"]
    assert isinstance(scopes, list)
    cells = (facts["id"], ",".join(scopes), rate, facts["created"], facts["note"])
    return "  ".join(map(str, cells)).rstrip()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


KEYS: Final = Command(
    name="keys",
    summary="Make, list and revoke the keys callers of a server need.",
    configure=_configure_keys,
    run=_run_keys,
    example="tierline keys create --file keys.json --scope score --rate 200",
    extra="serving",
)
AUDIT: Final = Command(
    name="audit",
    summary="Check that nobody edited an audit log.",
    configure=_configure_audit,
    run=_run_audit,
    example="tierline audit verify keys.json.audit",
    extra="serving",
)
