"""Recommend for every user of a file, from threads, into a CSV: a nightly mailing, for instance."""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import track

import tierline

EXAMPLE = (
    "example:\n  python examples/batch_scoring.py users.txt recommendations.csv"
    " --edge http://127.0.0.1:8101 --cloud http://127.0.0.1:8201"
)
COLUMNS = ("user", "rank", "item", "score", "tier", "quality", "reason")
Row = tuple[str, int, int, float, str, str, str]


def main() -> int:
    """Read, recommend, write. Exit code 3 when a user was left without an answer."""
    options = _parser().parse_args()
    users = list(read_users(Path(options.users)))
    with tierline.Client(
        edge=options.edge, cloud=options.cloud, deadline=options.deadline
    ) as client:
        client.prepare(options.model)
        rows, failures = recommend_all(client, options.model, users, options.k, options.threads)
    with Path(options.out).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    tiers = ", ".join(f"{count} from {tier}" for tier, count in tiers_of(rows).most_common())
    print(f"{len(users)} users: {tiers or 'no answer'}; {len(failures)} failed. See {options.out}.")
    for user, why in failures[:5]:
        print(f"  {user}: {why}", file=sys.stderr)
    return 3 if failures else 0


def read_users(path: Path) -> Iterator[tuple[str, list[int]]]:
    """`user item item …` lines, oldest item first; an empty history is fine."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        user, *items = line.split() or [""]
        try:
            history = [int(item) for item in items]
        except ValueError as error:
            raise SystemExit(f"{path}, line {number}: item ids are integers: {error}") from error
        if user:
            yield user, history


def recommend_all(
    client: tierline.Client,
    model: str,
    users: Iterable[tuple[str, list[int]]],
    k: int,
    threads: int,
) -> tuple[list[Row], list[tuple[str, str]]]:
    """Rows of all answered users, in the users' order, and (user, why) of the others."""

    def one(user: tuple[str, list[int]]) -> tuple[str, tierline.Answer | tierline.CallError]:
        name, history = user
        try:
            return name, client.recommend(model, query={"history": history}, k=k, key=name)
        except tierline.CallError as error:
            return name, error

    rows: list[Row] = []
    failures: list[tuple[str, str]] = []
    work = list(users)
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(one, work)
        console = Console(stderr=True)
        for user, result in track(results, "recommending", total=len(work), console=console):
            if isinstance(result, tierline.CallError):
                failures.append((user, f"{type(result).__name__}: {result}"))
                continue
            source = (result.tier, result.quality, result.reason)
            for rank, (item, score) in enumerate(result.top(k), 1):
                rows.append((user, rank, item, score, *source))
    return rows, failures


def tiers_of(rows: Iterable[Row]) -> Counter[str]:
    """How many users each tier answered."""
    return Counter(row[4] for row in rows if row[1] == 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("users", help="file of `user item item …` lines")
    parser.add_argument("out", help="CSV to write")
    parser.add_argument("--edge", nargs="+", required=True, help="edge endpoints")
    parser.add_argument("--cloud", nargs="*", default=[], help="cloud endpoints")
    parser.add_argument("--model", default="shop", help="which model to ask (shop)")
    parser.add_argument("--k", type=int, default=10, help="items a user (10)")
    parser.add_argument("--threads", type=int, default=8, help="calls under way at once (8)")
    parser.add_argument("--deadline", type=float, default=2.0, help="seconds a call may take (2)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
