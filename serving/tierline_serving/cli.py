"""`tierline bundle` and `tierline registry`: make, sign, check, publish and roll back bundles.

Imports nothing heavy: the work is imported when a command runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tierline import ConfigurationError, TierlineError
from tierline.cli import EXIT_DONE, Command

if TYPE_CHECKING:
    from tierline_serving.bundle import Bundle
    from tierline_serving.registry import Published
    from tierline_serving.signing import Trust

_SUBPARSERS: Final = "subcommands"
Action = Callable[[argparse.Namespace], int]


def _configure_bundle(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title=_SUBPARSERS, metavar="ACTION", required=True)

    keygen = _add(actions, "keygen", _keygen, "Make a key pair that signs and verifies bundles.")
    _example(keygen, "tierline bundle keygen --key signing.pem --public signing.pub")
    keygen.add_argument("--key", type=Path, required=True, help="where the private key goes (0600)")
    keygen.add_argument("--public", type=Path, required=True, help="where the public key goes")

    build = _add(actions, "build", _build, "Build a bundle from a folder of files and a manifest.")
    _example(build, "tierline bundle build model/ --manifest m.json --out bundles --key key.pem")
    build.add_argument("folder", type=Path, help="every file in it becomes part of the bundle")
    build.add_argument("--manifest", type=Path, required=True, help="manifest without its files")
    build.add_argument("--out", type=Path, required=True, help="where the bundle's folder goes")
    signed = build.add_mutually_exclusive_group(required=True)
    signed.add_argument("--key", type=Path, help="private key to sign with")
    signed.add_argument("--allow-unsigned", action="store_true", help="leave it unsigned")
    _json_option(build)

    verify = _add(actions, "verify", _verify, "Check a bundle as a runtime would.")
    _example(verify, "tierline bundle verify bundles/ranker-1-0123456789ab --trust signing.pub")
    verify.add_argument("bundle", type=Path, help="the bundle's folder")
    _trust_options(verify)
    _json_option(verify)

    inspect = _add(actions, "inspect", _inspect, "Show what a bundle is; checks it but its signer.")
    _example(inspect, "tierline bundle inspect bundles/ranker-1-0123456789ab --json")
    inspect.add_argument("bundle", type=Path, help="the bundle's folder")
    _json_option(inspect)

    sign = _add(actions, "sign", _sign, "Check a bundle and put a signature on it.")
    _example(sign, "tierline bundle sign bundles/ranker-1-0123456789ab --key signing.pem")
    sign.add_argument("bundle", type=Path, help="the bundle's folder")
    sign.add_argument("--key", type=Path, required=True, help="private key to sign with")


def _configure_registry(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title=_SUBPARSERS, metavar="ACTION", required=True)

    publish = _add(actions, "publish", _publish, "Verify a bundle, copy it in, move the channel.")
    _example(publish, "tierline registry publish bundles/ranker-1-0123456789ab --root registry")
    publish.add_argument("bundle", type=Path, help="the bundle's folder")
    _registry_options(publish, channel=True, trust=True)

    listing = _add(actions, "list", _list, "List the bundles and the channels that name them.")
    _example(listing, "tierline registry list --root registry")
    _registry_options(listing)

    resolve = _add(actions, "resolve", _resolve, "Print the folder of the bundle a channel names.")
    _example(resolve, "tierline registry resolve ranker --channel stable --root registry")
    resolve.add_argument("model")
    _registry_options(resolve, channel=True)

    promote = _add(actions, "promote", _promote, "Let a channel name a bundle that is here.")
    _example(promote, "tierline registry promote ranker 2026.11.21-1 --root registry")
    promote.add_argument("model")
    promote.add_argument("bundle", help="its version, id or folder name")
    _registry_options(promote, channel=True, trust=True)

    back = _add(actions, "roll-back", _roll_back, "Let a channel name what it named before.")
    _example(back, "tierline registry roll-back ranker --root registry --trust signing.pub")
    back.add_argument("model")
    _registry_options(back, channel=True, trust=True)

    backup = _add(actions, "backup", _backup, "Write the registry to one tar file with hashes.")
    _example(backup, "tierline registry backup registry.tar --root registry")
    backup.add_argument("tar", type=Path)
    _registry_options(backup)

    restore = _add(actions, "restore", _restore, "Restore a backup into an empty folder, verified.")
    _example(restore, "tierline registry restore registry.tar --root new --trust signing.pub")
    restore.add_argument("tar", type=Path)
    _registry_options(restore, trust=True)


BUNDLE: Final = Command(
    name="bundle",
    summary="Make, sign, check and inspect model bundles.",
    configure=_configure_bundle,
    run=lambda options: _run(options),
    example="tierline bundle verify bundles/ranker-1-0123456789ab --trust signing.pub",
    needs=("cryptography",),
    extra="serving",
)
REGISTRY: Final = Command(
    name="registry",
    summary="Publish bundles to a folder, move channels, back up and restore.",
    configure=_configure_registry,
    run=lambda options: _run(options),
    example="tierline registry resolve ranker --channel stable --root registry",
    needs=("cryptography",),
    extra="serving",
)


def _run(options: argparse.Namespace) -> int:
    action: Action = options.action
    try:
        return action(options)
    except OSError as error:  # a full disk, a folder that may not be written: no traceback
        raise TierlineError(f"the file system refused: {error}") from error


def _keygen(options: argparse.Namespace) -> int:
    from tierline_serving.signing import Signer

    signer = Signer.generate()
    signer.save(options.key, options.public)
    _say(f"Key {signer.public_key.key_id}: keep {options.key} secret, hand out {options.public}.")
    return EXIT_DONE


def _build(options: argparse.Namespace) -> int:
    from tierline_serving.bundle import write_bundle
    from tierline_serving.signing import Signer

    signer = Signer.from_file(options.key) if options.key else None
    bundle = write_bundle(
        _files_in(options.folder), _read_manifest(options.manifest), options.out, signer
    )
    _tell(options, _facts(bundle), f"Built {bundle.path}, {_vouched(bundle)}.")
    return EXIT_DONE


def _verify(options: argparse.Namespace) -> int:
    from tierline_serving.bundle import open_bundle

    bundle = open_bundle(options.bundle, _trust(options))
    count = len(bundle.manifest.files)
    _tell(options, _facts(bundle), f"{bundle.id} is sound: {count} files, {_vouched(bundle)}.")
    return EXIT_DONE


def _inspect(options: argparse.Namespace) -> int:
    from tierline_serving.bundle import open_bundle
    from tierline_serving.manifest import SIGNATURE_FILE
    from tierline_serving.signing import Trust, claimed_key

    bundle = open_bundle(options.bundle, Trust(allow_unsigned=True))
    facts, manifest = _facts(bundle), bundle.manifest
    del facts["signed_by"]  # nobody's signature is verified here; verify does that
    signature = bundle.path / SIGNATURE_FILE
    facts["claimed_key"] = claimed_key(signature.read_bytes()) if signature.exists() else None
    if options.json:
        _say(json.dumps({**facts, "manifest": manifest.to_json()}))
        return EXIT_DONE
    runtime = manifest.runtime
    named = (runtime.engine, runtime.precision, runtime.architecture, runtime.factory)
    facts["runtime"] = " ".join(part for part in named if part is not None)
    _table([(key, str("none" if value is None else value)) for key, value in facts.items()])
    files = [(name, str(f.bytes), f.sha256[:12]) for name, f in sorted(manifest.files.items())]
    _say("")
    _table([("file", "bytes", "sha256"), *files])
    return EXIT_DONE


def _sign(options: argparse.Namespace) -> int:
    from tierline_serving.bundle import sign_bundle
    from tierline_serving.signing import Signer

    bundle = sign_bundle(options.bundle, Signer.from_file(options.key))
    _say(f"Signed {bundle.id} with key {bundle.signed_by}.")
    return EXIT_DONE


def _publish(options: argparse.Namespace) -> int:
    from tierline_serving.registry import Registry

    place = Registry(options.root).publish(
        options.bundle, trust=_trust(options), channel=options.channel
    )
    facts: dict[str, object] = {"path": str(place), "channel": options.channel}
    _audit(options, "registry.publish", place.name)
    _tell(options, facts, f"Published {place.name}; channel {options.channel} names it.")
    return EXIT_DONE


def _list(options: argparse.Namespace) -> int:
    from tierline_serving.registry import Registry

    bundles = Registry(options.root).list()
    if options.json:
        _say(json.dumps([_published(bundle) for bundle in bundles]))
    elif not bundles:
        _say(f"The registry {options.root} holds no bundle.")
    else:
        rows = [
            (b.model, b.id, b.created, "signed" if b.signed else "unsigned", " ".join(b.channels))
            for b in bundles
        ]
        _table([("model", "bundle", "created", "signature", "channels"), *rows])
    return EXIT_DONE


def _resolve(options: argparse.Namespace) -> int:
    from tierline_serving.registry import Registry

    place = Registry(options.root).resolve(options.model, options.channel)
    _tell(options, {"path": str(place)}, str(place))
    return EXIT_DONE


def _promote(options: argparse.Namespace) -> int:
    from tierline_serving.registry import Registry

    place = Registry(options.root).promote(
        options.model, options.bundle, trust=_trust(options), channel=options.channel
    )
    facts: dict[str, object] = {"path": str(place), "channel": options.channel}
    _audit(options, "registry.promote", place.name)
    _tell(options, facts, f"Channel {options.channel} of {options.model} names {place.name}.")
    return EXIT_DONE


def _roll_back(options: argparse.Namespace) -> int:
    from tierline_serving.registry import Registry

    place = Registry(options.root).roll_back(
        options.model, trust=_trust(options), channel=options.channel
    )
    facts: dict[str, object] = {"path": str(place), "channel": options.channel}
    _audit(options, "registry.roll-back", place.name)
    _tell(options, facts, f"Channel {options.channel} of {options.model} is back at {place.name}.")
    return EXIT_DONE


def _backup(options: argparse.Namespace) -> int:
    from tierline_serving.backup import back_up
    from tierline_serving.registry import Registry

    count = back_up(Registry(options.root), options.tar)
    _tell(options, {"files": count}, f"Backed up {count} files to {options.tar}.")
    return EXIT_DONE


def _restore(options: argparse.Namespace) -> int:
    from tierline_serving.backup import restore
    from tierline_serving.registry import Registry

    count = restore(options.tar, Registry(options.root), trust=_trust(options))
    _tell(options, {"files": count}, f"Restored {count} files to {options.root}, all verified.")
    return EXIT_DONE


def _add(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    action: Action,
    summary: str,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name,
        help=summary,
        description=summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(action=action)
    return parser


def _example(parser: argparse.ArgumentParser, line: str) -> None:
    parser.epilog = f"example:\n  {line}"


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="answer in JSON, for scripts")


def _trust_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust", type=Path, action="append", default=[], help="a public key to trust (repeat)"
    )
    parser.add_argument("--allow-unsigned", action="store_true", help="take unsigned bundles too")


def _registry_options(
    parser: argparse.ArgumentParser, *, channel: bool = False, trust: bool = False
) -> None:
    parser.add_argument("--root", type=Path, required=True, help="the registry's folder")
    if channel:
        parser.add_argument("--channel", default="stable", help="default: stable")
    if trust:
        _trust_options(parser)
    if channel and trust:  # these move a channel
        parser.add_argument("--audit", type=Path, help="write what changed into this audit log")
    _json_option(parser)


def _trust(options: argparse.Namespace) -> Trust:
    from tierline_serving.signing import Trust

    return Trust.from_files(options.trust, allow_unsigned=options.allow_unsigned)


def _files_in(folder: Path) -> dict[str, Path | bytes]:
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder")
    found = sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    for path in found:
        if path.is_symlink():
            raise ConfigurationError(f"{path} is a link; a bundle holds plain files")
    return {path.relative_to(folder).as_posix(): path for path in found}


def _read_manifest(path: Path) -> dict[str, object]:
    from tierline_serving._fields import parse_json

    try:
        value = parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigurationError(f"cannot read the manifest {path}: {error}") from error
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path} holds no JSON object")
    return value


def _facts(bundle: Bundle) -> dict[str, object]:
    manifest = bundle.manifest
    return {
        "id": bundle.id,
        "path": str(bundle.path),
        "digest": bundle.digest,
        "model": manifest.model,
        "version": manifest.version,
        "kind": manifest.kind,
        "tier": manifest.tier,
        "created": manifest.created,
        "signed_by": bundle.signed_by,
    }


def _published(bundle: Published) -> dict[str, object]:
    return {
        "model": bundle.model,
        "id": bundle.id,
        "folder": bundle.folder,
        "created": bundle.created,
        "signed": bundle.signed,
        "channels": list(bundle.channels),
    }


def _vouched(bundle: Bundle) -> str:
    return f"signed by {bundle.signed_by}" if bundle.signed_by else "signed by nobody we verified"


def _audit(options: argparse.Namespace, action: str, bundle: str) -> None:
    if options.audit is not None:
        from tierline_serving.access.cli import record_change

        record_change(options.audit, action, bundle, {"channel": options.channel})


def _tell(options: argparse.Namespace, facts: dict[str, object], sentence: str) -> None:
    _say(json.dumps(facts) if options.json else sentence)


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        _say("  ".join(cells).rstrip())


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
