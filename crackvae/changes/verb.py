"""The verb `change`: what is new, has grown, is static or is gone since the visit before."""

import json

from crackvae.changes.pairs import by_csv, by_path, by_place
from crackvae.changes.visit_comparison import compare_visits, write_page
from crackvae.changes.visits import Visit, read_visit, scored_visit
from crackvae.config import ChangeConfig
from crackvae.errors import ConfigError, StorageError
from crackvae.results import Result
from crackvae.storage import fileio, filesystems, tables, uris
from crackvae.storage.names.run_files import summary_name
from crackvae.storage.tables import changes as table


@filesystems.with_s3_endpoint
def change(config: ChangeConfig) -> Result:
    """Compare the findings of two visits, add the rows to the table in `out`, and write the page.

    Returns:
        Result with the table `new and grown`.

    Raises:
        StorageError, ManifestError, ModelError, ClusterError: the message says how to fix it.
        FolderInUse: another run writes into `out`.
    """
    folder = _folder(config)
    before, after = _visits(config, folder)
    partners = _partners(before, after, config)
    is_one_table = uris.absolute(config.before) == uris.absolute(config.after)
    compared = compare_visits(
        before, after, partners, folder, config, model_dir=config.model, unpaired=not is_one_table
    )
    names = {"before": uris.absolute(config.before), "after": uris.absolute(config.after)}
    summary = {"verb": "change", **names, **compared.summary}
    summary["report"] = "" if config.no_report else write_page(compared, summary, config.shown)
    path = uris.join(folder, summary_name(summary["run"]))
    fileio.write_bytes(path, json.dumps(summary, indent=1).encode())
    return Result(summary, {"new and grown": compared.important()})


def _folder(config: ChangeConfig) -> str:
    """The folder of the table of changes."""
    after = uris.absolute(config.after)
    is_table = bool(tables.list_parts(after))
    if not config.out and not is_table:
        raise ConfigError(f"{after} holds no scores: give --out, a folder for the table of changes.")
    folder = uris.absolute(config.out) if config.out else table.folder_of(after)
    fileio.require_outside_table(folder, "--out", after if is_table else "")
    return folder


def _visits(config: ChangeConfig, folder: str) -> tuple[Visit, Visit]:
    if uris.absolute(config.before) != uris.absolute(config.after):
        before, after = (scored_visit(one, folder, config, config.model) for one in (config.before, config.after))
        return before, after
    whole = read_visit(uris.absolute(config.after))
    last = sorted(whole.first_runs["run"].to_pylist())[-1:]
    earlier = whole.of_runs(last, are_others=True)
    if not earlier.images:
        raise StorageError(
            f"{whole.out} holds no photographs of an earlier visit, only those of its last run: name the scores of the "
            "other visit as --before."
        )
    return earlier, whole.of_runs(last)


def _partners(before: Visit, after: Visit, config: ChangeConfig) -> dict[str, str]:
    """The earlier photograph of each later one that has one."""
    if config.pairs:
        return by_csv(fileio.read_bytes(config.pairs), config.pairs, before.images, after.images)
    is_one_root = uris.absolute(config.before) == uris.absolute(config.after)
    partners = by_path(before.images, after.images, same_root=is_one_root)
    if config.within:
        partners = by_place(before.rows, after.rows, config.within) | partners
    if not partners and set(before.images) & set(after.images):
        raise StorageError(
            f"{config.before} and {config.after} are scores of the same photographs, and not of two visits: name the "
            "scores of the earlier photographs as --before."
        )
    if not partners:
        raise StorageError(
            f"no photograph of {config.after} has the path of one of {config.before}, "
            "below the folder of its visit and without dates: name the pairs in a CSV, --pairs, or pair photographs by "
            "the places of their cameras, --within 5."
        )
    return partners
