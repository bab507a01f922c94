"""The printed table has 100 columns, N with every FID, and names whatever is left out."""

from dataclasses import replace

import pytest
from tiny_evaluations import tiny_evaluation

from vqgan_train.evaluation.report.results import ALL, LeftOut, SetDistance, Summary
from vqgan_train.evaluation.report.text_table import table_lines


@pytest.mark.parametrize("checkpoints", [1, 2, 3])
def test_it_fits_a_terminal(checkpoints: int) -> None:
    found = tiny_evaluation()
    first, second = found.checkpoints
    long = Summary(mean=-1.2345, low=-1.2345, high=-1.2345, count=6, num_infinite=0)
    decibels = Summary(mean=-99.25, low=-99.25, high=-99.25, count=6, num_infinite=0)
    summaries = {
        group: {name: decibels if "psnr" in name else long for name in own}
        for group, own in first.summaries.items()
    }
    changes = tuple(
        replace(found.differences[0], group=group, metric=name, change=summary)
        for group, own in summaries.items()
        for name, summary in own.items()
    )
    given = [
        replace(first, summaries=summaries, name="a very long name of a checkpoint"),
        replace(second, summaries=summaries),
        replace(second, name="third"),
    ][:checkpoints]
    out = LeftOut("rfid", "no network. " * 20)
    lines = table_lines(
        replace(found, checkpoints=tuple(given), left_out=(out,), differences=changes)
    )
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("all images") for line in lines) == max(1, checkpoints - 1)


def test_an_fid_is_never_without_its_n() -> None:
    few = "\n".join(table_lines(tiny_evaluation()))
    assert "4.25 (N = 6 *)" in few
    assert "* of fewer than 2,048 images: comparable within this table, and with no other" in few
    assert "rFID by torchmetrics 1.9" in few
    found = tiny_evaluation()
    enough = {ALL: SetDistance(value=4.25, evaluator="ours", count=2048)}
    many = replace(found, checkpoints=tuple(replace(c, rfid=enough) for c in found.checkpoints))
    text = "\n".join(table_lines(many))
    assert "4.25 (N = 2,048)" in text
    assert "comparable" not in text


def test_what_was_left_out_or_unreadable_or_infinite_is_said() -> None:
    found = tiny_evaluation()
    infinite = Summary(mean=20, low=19, high=21, count=5, num_infinite=1)
    changed = tuple(replace(c, summaries={ALL: {"psnr": infinite}}) for c in found.checkpoints)
    text = "\n".join(table_lines(replace(found, checkpoints=changed)))
    assert "left out: LPIPS AlexNet: no weights" in text
    assert "1 images could not be read:\n  00000.tar/x: cut off" in text
    assert "PSNR of after, all images: 1 infinite (identical pixels), not in the mean." in text
    assert "3 faces in 3 images, 50.0% of all" in text


def test_a_change_has_its_sign_and_interval() -> None:
    (psnr,) = [row for row in table_lines(tiny_evaluation()) if "+0.20" in row]
    assert psnr.endswith("+0.20 (+0.10, +0.30)")


def test_what_is_infinite_or_nothing_alone_is_said_too() -> None:
    found = tiny_evaluation()
    inf, nan = float("inf"), float("nan")
    cells = {
        "psnr": Summary(mean=inf, low=inf, high=inf, count=0, num_infinite=6),
        "ssim": Summary(mean=nan, low=nan, high=nan, count=0, num_infinite=0),
    }
    changed = tuple(replace(c, summaries={ALL: cells}) for c in found.checkpoints)
    lines = table_lines(replace(found, checkpoints=changed, differences=()))
    assert [line.split() for line in lines if "PSNR" in line] == [
        ["PSNR,", "dB", "infinite", "infinite"]
    ]
    assert [line.split() for line in lines if "SSIM" in line] == [["SSIM", "-", "-"]]


def test_what_rounds_to_zero_has_no_sign_and_infinity_has_its_own() -> None:
    found = tiny_evaluation()
    inf = float("inf")
    nothing = SetDistance(value=-1e-4, evaluator="Inception", count=9)
    lost = Summary(mean=-inf, low=-inf, high=-inf, count=0, num_infinite=6)
    changed = tuple(replace(c, rfid={ALL: nothing}) for c in found.checkpoints)
    differences = tuple(replace(d, change=lost) for d in found.differences)
    text = "\n".join(table_lines(replace(found, checkpoints=changed, differences=differences)))
    assert "0.00 (N = 9 *)" in text
    assert "-0.00" not in text
    assert " -infinite" in text


def test_where_no_interval_is_known_none_is_printed() -> None:
    found = tiny_evaluation()
    nan = float("nan")
    once = Summary(mean=20, low=nan, high=nan, count=1, num_infinite=0)
    nothing = SetDistance(value=nan, evaluator="ours", count=0)
    single = SetDistance(value=nan, evaluator="ours", count=1)
    changed = tuple(
        replace(c, summaries={ALL: {"psnr": once}, "people": {}}, rfid={ALL: single, "people": own})
        for c, own in zip(found.checkpoints, (nothing, nothing), strict=True)
    )
    (difference,) = found.differences
    differences = (replace(difference, change=once),)
    lines = table_lines(replace(found, checkpoints=changed, differences=differences))
    rows = [line.split("  ") for line in lines]
    cells = [[cell.strip() for cell in row if cell] for row in rows]
    assert ["PSNR, dB", "20.00 (-)", "20.00 (-)", "+20.00 (-)"] in cells
    assert ["rFID", "- (N = 1 *)", "- (N = 1 *)", "-"] in cells
    assert ["rFID", "-", "-", "-"] in cells
    assert "(-): no interval, which needs finite values of at least 10 images." in lines
    assert not any("nan" in line for line in lines)
    assert not differences[0].is_certain
    assert "no interval" not in "\n".join(table_lines(found))


def test_damaged_sources_are_in_the_footer() -> None:
    found = tiny_evaluation()
    many = tuple(f"{number}.tar: cut off" for number in range(7))
    facts = replace(found.dataset, dead_shards=many)
    *_, last = blocks = "\n".join(table_lines(replace(found, dataset=facts))).split("\n\n")
    assert "could not" not in blocks[0]
    assert "1 images could not be read:\n  00000.tar/x: cut off\n" in last
    assert "7 shards hold nothing that could be read:\n  0.tar: cut off\n" in last
    assert "  4.tar: cut off\n  and 2 more, by name in evaluation.json\n" in last
    assert last.endswith("1 shards have lost samples:\n  00002.tar: cut off at byte 9")
