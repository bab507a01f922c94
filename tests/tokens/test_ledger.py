from pathlib import Path

from vqgan_train.images.bad_images import ChunkReport
from vqgan_train.tokens.ledger import LEDGER, read_reports, remove_leftovers, write_report


def test_reports_are_of_what_is_done_and_add_up(tmp_path: Path) -> None:
    write_report(tmp_path, "001", ChunkReport(5, 4, 1, ["x: bad"]))
    write_report(tmp_path, "003", ChunkReport(2, 2, 0, []))
    found = read_reports(tmp_path, ["001", "002", "003"])
    assert list(found) == ["001", "003"]
    total = ChunkReport()
    for report in found.values():
        total.add(report)
    assert total == ChunkReport(7, 6, 1, ["x: bad"])


def test_leftovers_of_a_part_are_removed_and_no_others(tmp_path: Path) -> None:
    (tmp_path / LEDGER).mkdir()
    for name in ("001.npy.ab.partial", "001.json.cd.partial", "002.npy.ef.partial", "001.npy"):
        (tmp_path / name).touch()
        (tmp_path / LEDGER / name).touch()
    remove_leftovers(tmp_path, {"001", "003"})
    for folder in (tmp_path, tmp_path / LEDGER):
        assert {p.name for p in folder.iterdir() if p.is_file()} == {
            "002.npy.ef.partial", "001.npy",
        }  # fmt: skip
