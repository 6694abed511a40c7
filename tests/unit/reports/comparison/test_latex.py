"""Tables in LaTeX: they fit a page, can be referred to, and hold every cell."""

import re

import pandas as pd
import pytest

from metrad.reports.comparison.latex import MOST_ROWS, escaped, latex_tables

ENDS = {"low": "-0.0231", "high": "-0.0131", "wins": "1", "ties": "0", "losses": "2"}


def made(rows):
    text = pd.DataFrame([{"head": f"h_{row}", "difference": "-0.0194", **ENDS, "p": "0.5"} for row in range(rows)])
    lines = list(latex_tables(text, [False, *[True] * 7], "Differences of 5 %", "head.margin-auroc-pairs"))
    return re.findall(r"\\begin\{table\}.*?\\end\{table\}", "\n".join(lines), re.DOTALL)


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (MOST_ROWS, 1), (MOST_ROWS + 1, 2), (100, 3)])
def test_a_long_table_is_parted_and_every_part_has_a_label_of_its_own(rows, count):
    tables = made(rows)
    labels = [re.search(r"\\label\{(.*?)\}", table)[1] for table in tables]
    assert labels == [f"tab:head-margin-auroc-pairs{'' if i == 0 else f'-{i + 1}'}" for i in range(count)]
    cells = [line.split(" & ")[0] for table in tables for line in table.splitlines() if line.startswith("h\\_")]
    assert cells == [rf"h\_{row}" for row in range(rows)]
    assert all(table.count(r"\\") <= MOST_ROWS + 1 for table in tables)
    assert all(f", part {i + 1} of {count}." in table or count == 1 for i, table in enumerate(tables))


def test_a_wide_table_is_shrunk_to_the_page_and_a_narrow_one_keeps_its_size():
    (table,) = made(1)
    assert r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%" in table
    assert table.count("{") == table.count("}")


def test_ends_of_intervals_and_records_share_a_column():
    (table,) = made(1)
    assert r"\begin{tabular}{lrrrr}" in table
    assert r"head & difference & interval & w/t/l & p \\" in table
    assert r"h\_0 & $-$0.0194 & $-$0.0231 to $-$0.0131 & 1/0/2 & 0.5 \\" in table


def test_names_are_no_commands():
    assert escaped("a_b & 5 %\n\\x {~^<>}$#") == (
        r"a\_b \& 5 \% \textbackslash{}x \{\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\}\$\#"
    )
