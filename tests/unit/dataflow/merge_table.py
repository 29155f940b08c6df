"""The truth table of docs/dataflow-merge.md, made by merging; run it to print the table anew."""

from __future__ import annotations

from commit_graph import Graph, tree

from dataflow.store.objects import EXECUTABLE, SYMLINK, Objects
from dataflow.tree.merge import merge_trees
from dataflow.tree.tree import Tree

START, END = "<!-- table: made by tests/unit/dataflow/merge_table.py -->", "<!-- end of table -->"

Files = dict[str, str | tuple[int, str]]

A, B, C, D, E = ("".join(f"{c}{n}\n" for n in range(8)) for c in "ABCDE")
STATES: dict[str, Files] = {
    "-": {},
    "A": {"p": A},
    "A+x": {"p": (EXECUTABLE, A)},
    "B": {"p": B},
    "C": {"p": C},
    "link": {"p": (SYMLINK, "there")},
    "link'": {"p": (SYMLINK, "elsewhere")},
    "dir": {"p/f": D},
    "dir'": {"p/f": E},
}
MERGED: dict[str, Files] = {"B+x": {"p": (EXECUTABLE, B)}, "C+x": {"p": (EXECUTABLE, C)}}
BASES = ("-", "A", "link", "dir")

A2, A3, A9 = (A.replace(f"A{n}", f"new{n}") for n in (0, 1, 7))
STEPS: dict[str, Files] = {
    "left f": {"f": A},
    "removed f": {},
    "edited f (1)": {"f": A2},
    "edited f (2)": {"f": A9},
    "f → g": {"g": A},
    "f → g, edited (1)": {"g": A2},
    "f → g, edited (2)": {"g": A9},
    "f → h": {"h": A},
    "f → h, edited (2)": {"h": A9},
    "left f, added g": {"f": A, "g": B},
    "edited f (1), added g": {"f": A2, "g": B},
}
CONTENT = {A: "A", B: "B", A2: "A1", A9: "A2", A2.replace("A7", "new7"): "A12"}


def merged(base: Files, ours: Files, theirs: Files) -> tuple[Objects, str, dict[str, str]]:
    """Merge three trees: the result, and the kinds of conflicts by path."""
    objects = Graph().objects
    got = merge_trees(objects, *(tree(objects, files) for files in (base, ours, theirs)))
    return objects, got.tree, {b"/".join(c.path).decode(): c.kind.value for c in got.conflicts}


def one_path(base: str, ours: str, theirs: str) -> str:
    """Return the cell for one path."""
    objects, root, conflicts = merged(STATES[base], STATES[ours], STATES[theirs])
    if conflicts:
        return "**" + ", ".join(dict.fromkeys(conflicts.values())) + "**"
    for name, files in [*STATES.items(), *MERGED.items()]:
        if tree(objects, files) == root:
            return name
    raise AssertionError((base, ours, theirs))


def renamed(ours: str, theirs: str) -> str:
    """Return the cell for a file that may be renamed."""
    objects, root, conflicts = merged({"f": A}, STEPS[ours], STEPS[theirs])
    parts = []
    for path, entry in Tree(objects, root).walk():
        name = b"/".join(path).decode()
        kind = conflicts.pop(name, None)
        content = CONTENT.get(objects.blob(entry.oid).decode(), "?")
        parts.append(f"{name}: **{kind}**" if kind else f"{name}={content}")
    assert not conflicts
    return ", ".join(parts) or "-"


def matrix(corner: str, names: list[str], cell) -> list[str]:
    """Return a table with a row for each of ours and a column for each of theirs."""
    lines = [
        f"| {corner} | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    lines += [f"| {o} | " + " | ".join(cell(o, t) for t in names) + " |" for o in names]
    return lines


def table() -> str:
    """Return the whole section of the page."""
    out = [START, ""]
    for base in BASES:
        names = list(STATES)
        out += [f"Base `{base}`; rows are ours, columns theirs:", ""]
        out += [*matrix("", names, lambda o, t, b=base: one_path(b, o, t)), ""]
    out += ["A file `f` with content A; rows are what ours did, columns what theirs did:", ""]
    out += [*matrix("", list(STEPS), renamed), "", END]
    return "\n".join(out)


if __name__ == "__main__":
    print(table())
