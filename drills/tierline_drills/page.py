"""One self-contained HTML page of one or more drills: figures, bars, timeline, picture. Pure."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tierline_drills.repeats import pooled

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:1050px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.5em}h2{font-size:1.2em;margin-top:2em;border-top:1px solid #ddd;padding-top:1em}
table{border-collapse:collapse;margin:.6em 0}td,th{padding:.2em .8em .2em 0;text-align:left;
border-bottom:1px solid #eee;vertical-align:top}.yes{color:#1b6e53;font-weight:600}
.no{color:#c0392b;font-weight:600}.grey{color:#777}img{max-width:100%}
td.n{text-align:right;font-variant-numeric:tabular-nums}
"""

Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """One drill of a page: its report, its picture, what the simulator predicted, and the report of
    its negative control."""

    report: Report
    picture: bytes = b""
    predicted: Report | None = None
    negative: Report | None = None
    repeats: tuple[Report, ...] = ()


def page(title: str, chapters: Sequence[Chapter]) -> str:
    """The whole page."""
    rows = "".join(_overview(chapter) for chapter in chapters)
    heads = ("drill", "bars", "answered", "full", "detected", "mitigated", "recovered", "negative")
    head = "".join(f"<th>{name}</th>" for name in heads)
    first = chapters[0].report["drill"] if chapters else {}
    machine = first.get("machine") or {}
    about = ", ".join(f"{key}: {value}" for key, value in machine.items())
    body = "".join(_chapter(chapter) for chapter in chapters)
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{_e(title)}</title>"
        f"<style>{STYLE}</style></head><body><h1>{_e(title)}</h1>"
        f"<p class='grey'>{_e(str(first.get('started', '')))} · {_e(about)}"
        f" · git {_e(str(first.get('git', '')))}</p>"
        f"<table><tr>{head}</tr>{rows}</table>{body}</body></html>\n"
    )


def _overview(chapter: Chapter) -> str:
    found = chapter.report
    recovery, available = found["recovery"], found["availability"]
    held = sum(row["holds"] for row in found["bars"])
    negative = "–"
    if chapter.negative is not None:
        negative = _yes(not chapter.negative["passed"], "failed, as it must", "did not fail")
    cells = [
        f"<a href='#{_e(found['drill']['id'])}'>{_e(found['drill']['title'])}</a>",
        _yes(found["passed"], f"{held}/{len(found['bars'])}", f"{held}/{len(found['bars'])}"),
        _percent(available["any"]),
        _percent(available["full"]),
        *(_seconds(recovery[name]) for name in ("mttd", "mttm", "mttr")),
        negative,
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _chapter(chapter: Chapter) -> str:
    found = chapter.report
    drill = found["drill"]
    parts = [
        f"<h2 id='{_e(drill['id'])}'>{_e(drill['title'])}</h2><p>{_e(drill['hypothesis'])}</p>",
        _load(found),
        _bars(found),
        _picture(chapter.picture, drill["title"]),
        _recovery(chapter),
        _repeats(chapter),
        _phases(found),
        _safety(found),
        _events(found),
    ]
    if chapter.negative is not None:
        missed = [row["bar"] for row in chapter.negative["bars"] if not row["holds"]]
        parts.append(
            "<p><b>Negative control</b> (the same drill without what protects): missed "
            f"{_e('; '.join(missed) or 'nothing')}.</p>"
        )
    return "".join(parts)


def _load(found: Report) -> str:
    load = found["load"]
    if not load["capacity"]:
        return ""
    return (
        f"<p>{_number(load['rate'])} calls a second: {_percent(load['share'], 0)} of the "
        f"{_number(load['capacity'])} that this fleet carried, measured before.</p>"
    )


def _bars(found: Report) -> str:
    rows = [
        f"<tr><td>{_e(row['bar'])}</td><td class='n'>{_number(row['value'])}</td>"
        f"<td>{_yes(row['holds'], 'holds', 'missed')}</td></tr>"
        for row in found["bars"]
    ]
    stopped = "".join(f"<p class='no'>Stopped: {_e(why)}</p>" for why in found["stopped"])
    return f"<table><tr><th>bar</th><th>measured</th><th></th></tr>{''.join(rows)}</table>{stopped}"


def _picture(data: bytes, title: str) -> str:
    if not data:
        return ""
    encoded = base64.b64encode(data).decode("ascii")
    return f"<p><img alt='{_e(title)}' src='data:image/png;base64,{encoded}'></p>"


def _recovery(chapter: Chapter) -> str:
    """Measured beside predicted, and beside each repeat."""
    names = {
        "symptom": "first symptom",
        "mttd": "MTTD: first client or watcher detects",
        "mttd_client": "first client opens a breaker or ejects",
        "mttd_all": "every client has detected",
        "mttm": "MTTM: callers get what is promised again",
        "mttr": "MTTR: fully recovered",
        "heal": "heal time after the fault was cleared",
        "rto": "RTO",
    }
    heads = ["measured", *(f"repeat {i + 2}" for i in range(len(chapter.repeats)))]
    columns = [chapter.report, *chapter.repeats]
    if chapter.predicted is not None:
        heads.append("predicted")
        columns.append(chapter.predicted)
    rows = []
    for key, label in names.items():
        cells = [f"<td class='n'>{_seconds(column['recovery'][key])}</td>" for column in columns]
        rows.append(f"<tr><td>{label}</td>{''.join(cells)}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ["since the fault", *heads])
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _repeats(chapter: Chapter) -> str:
    """Each run's figures, and the rates over all of their calls."""
    if not chapter.repeats:
        return ""
    found = pooled([dict(one) for one in (chapter.report, *chapter.repeats)])
    heads = ["figure", *(f"run {i + 1}" for i in range(found["repeats"]))]
    head = "".join(f"<th>{name}</th>" for name in heads)
    rows = [
        f"<tr><td>{_e(name)}</td>"
        + "".join(f"<td class='n'>{_number(value)}</td>" for value in values)
        + "</tr>"
        for name, values in found["values"].items()
    ]
    available = found["availability"]
    low, high = available["any_interval"]
    text = (
        f"<p>All {found['repeats']} runs: {available['failed']} of {available['offered']} calls "
        f"failed; answered {_percent(available['any'], 3)}, 95 % interval {_percent(low, 3)} to "
        f"{_percent(high, 3)}; {found['passed_runs']} runs held every bar.</p>"
    )
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>{text}"


def _phases(found: Report) -> str:
    rows = []
    for name, phase in found["phases"].items():
        times, available = found["latency"][name], phase["availability"]
        cells = [
            name,
            str(available["offered"]),
            _percent(available["any"]),
            _percent(available["full"]),
            *(_milliseconds(times[key]) for key in ("p50", "p99", "p99_9")),
            _number(phase["amplification"]["mean"]),
            _number(phase["quality"]["ndcg"]),
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ("phase", "calls", "answered", "full", "p50", "p99", "p99.9", "amplification", "NDCG")
    head = "".join(f"<th>{name}</th>" for name in heads)
    budget = found["budget"]
    cost = (
        f"<p>Error budget: {budget['bad']} bad calls, "
        f"{_percent(budget['share_of_month'], digits=4)} of a month's budget; burn rate while the "
        f"fault lasted {_number(budget['burn_rate'])}. NDCG@10 a degraded answer costs: "
        f"{_number(found['quality']['ndcg_cost_degraded'])}.</p>"
    )
    control = found["control"]
    if control.get("present"):
        cost += (
            f"<p>Control fleet: answered {_percent(control['availability']['any'])}, p99 "
            f"{_milliseconds(control['latency']['p99'])}; difference of availability "
            f"{_number(control['delta_any'])}, of p99 {_milliseconds(control['delta_p99'])}.</p>"
        )
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>{cost}"


def _safety(found: Report) -> str:
    counted = {key: value for key, value in found["safety"].items() if key != "wrong"}
    shown = "; ".join(
        f"{key.replace('_', ' ')} {'not counted here' if value is None else f'{value:g}'}"
        for key, value in counted.items()
    )
    return f"<p>Safety: {_e(shown)}.</p>"


def _events(found: Report) -> str:
    rows = "".join(
        f"<tr><td class='n'>{event['at']:.2f} s</td><td>{_e(event['kind'])}</td>"
        f"<td>{_e(event['label'])}</td></tr>"
        for event in found["timeline"]["events"]
    )
    return f"<details open><summary>What happened</summary><table>{rows}</table></details>"


def _e(text: str) -> str:
    return html.escape(text, quote=True)


def _yes(holds: bool, yes: str, no: str) -> str:
    return f"<span class='{'yes' if holds else 'no'}'>{_e(yes if holds else no)}</span>"


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{1000 * value:.1f} ms"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
