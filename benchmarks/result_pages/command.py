"""Records and pages of results.

    python -m benchmarks results collect DIR [DIR…] --name NAME [--title TEXT] [--question TEXT] [--note TEXT]…
                                        [--extend]
    python -m benchmarks results build [NAME…]

``collect`` reads folders that ``python -m core run SPEC.yaml --out DIR`` has written, and writes a compact record into
``benchmarks/results/records/NAME``; with ``--extend`` it adds them to the record, so that a campaign may take several
sittings, each with other seeds. ``build`` makes ``docs/results/NAME.md`` with its figures from the record alone;
without a name it makes all pages and the page that lists them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.result_pages import page
from benchmarks.result_pages.collect import collect
from benchmarks.result_pages.extend import extended
from benchmarks.result_pages.record import RECORD_NAME, RECORDS, Record, RecordError
from common.atomic_write import atomic_write
from core.specs import SpecError


def read_all(folder: Path = RECORDS) -> dict[str, Record]:
    """Return all records by their names."""
    return {path.parent.name: Record.read(path.parent) for path in sorted(folder.glob(f"*/{RECORD_NAME}"))}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks results", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    collecting = commands.add_parser("collect", help="write a record from folders of `python -m core run`")
    collecting.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    collecting.add_argument("--name", required=True, help="name of the record and of its page")
    collecting.add_argument("--title", default="", help="title of the page; by default its name")
    collecting.add_argument("--question", default="", help="what the trainings were to answer")
    collecting.add_argument(
        "--note", action="append", default=[], help="a sentence that a reader has to know; repeatable"
    )
    collecting.add_argument("--spec", type=Path, help="the spec, if the folder does not contain it")
    collecting.add_argument(
        "--extend", action="store_true", help="add the runs to the record of this name, which has other seeds"
    )
    collecting.add_argument("--records", type=Path, default=RECORDS, help=argparse.SUPPRESS)
    building = commands.add_parser("build", help="make pages from records")
    building.add_argument("names", nargs="*", metavar="NAME")
    building.add_argument("--records", type=Path, default=RECORDS, help=argparse.SUPPRESS)
    building.add_argument("--docs", type=Path, default=page.DOCS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        _collect(options) if options.command == "collect" else _build(options)
    except (RecordError, SpecError) as error:
        parser.error(str(error))


def _collect(options: argparse.Namespace) -> None:
    if options.spec and len(options.folders) > 1:
        raise RecordError("--spec is for one folder")
    record = collect(
        options.folders,
        options.name,
        title=options.title,
        question=options.question,
        notes=options.note,
        spec=options.spec,
    )
    if options.extend:
        record = extended(Record.read(options.records / options.name), record)
    record.write(options.records)
    runs = sum(len(item.runs) for item in record.experiments)
    size = sum(path.stat().st_size for path in (options.records / record.name).rglob("*.json"))
    print(f"{options.records / record.name}: {runs} runs, {size / 1000:,.0f} kB")


def _build(options: argparse.Namespace) -> None:
    records = read_all(options.records)
    unknown = [name for name in options.names if name not in records]
    if unknown:
        raise RecordError(f"there is no record {unknown[0]!r} in {options.records}; there are {', '.join(records)}")
    options.docs.mkdir(parents=True, exist_ok=True)
    for name in options.names or records:
        for file, text in page.build(records[name]).items():
            atomic_write(options.docs / file, text)
            print(options.docs / file)
    atomic_write(options.docs / "index.md", page.index(records))


if __name__ == "__main__":
    main()
