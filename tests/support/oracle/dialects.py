"""What the files of a framework hold, by the dialects' tables: canonical tensors named, placed and cut for a rank.

    dialect = Dialect("merak", family, record, roles, tp=2, pp=4, era=1)
    for row, index in dialect.applying():
        dialect.place(row, index); dialect.tensor(row, index, tp=(rank, 2))
"""
import fnmatch
import re

from canonical import Mismatch, concrete, evaluate, give, load, parts_of, role_factors


def first_fit(choices, names):
    """The first entry of a list of {"when": ...} that holds."""
    return next((c for c in choices if evaluate(c.get("when", "true"), names)), None)


def two_dimensions(layout):
    """The two items of a matrix' layout."""
    depth, items = 0, [""]
    for c in layout:
        depth += (c in "({") - (c in ")}")
        items.append("") if c == " " and depth == 0 else items.append(items.pop() + c)
    return items if len(items) == 2 else None


def rows_of(table, family, names):
    """The dialect's rows: its own, and those that it derives from the family's Hugging Face rows."""
    derive = table.get("derive")
    rows = [{**row, "number": i} for i, row in enumerate(table["rows"])]
    if derive:
        template = first_fit(derive["names"], names)["name"]
        for row in family["rows"]:
            if "form" not in row:
                rows.append({**row, "hf": row["name"], "name": template, "at": "head.weight" if row.get("optional") else None})
        if "pad" in derive:
            rows = [{**r, "pad": derive["pad"]} if set(derive["pad"]) & set(r["layout"].split()) else r for r in rows]
    for row in rows:
        rule = next((r for r in (derive or {}).get("parallel", ()) if evaluate(r["when"], names) and all(fnmatch.fnmatch(p, r["roles"]) for p in parts_of(row).values())), None)
        row = dict(row)
        if rule:
            row["split"] = rule["split"]
            if "suffix" in rule and "hf" in row:
                row["hf"] = re.sub(r"\.(\w+)$", rf".{rule['suffix']}.\1", row["hf"])
                items, last = two_dimensions(row["layout"]), role_factors(next(iter(parts_of(row).values())))[-1]
                if items and re.search(rf"\b{last}\b", items[0]):
                    row["layout"] = f"{items[1]} {items[0]}"
        yield row


class Dialect:
    """A table with the model and the choices that it is read for."""
    def __init__(self, name, family, record, roles, **choices):
        self.table, self.roles = load(f"dialects/{name}.json"), roles
        defaults = {k: v[0] for k, v in self.table["choices"].items()}
        unknown = [k for k, v in choices.items() if k in self.table["choices"] and v not in self.table["choices"][k]]
        if unknown:
            raise Mismatch(f"{name}: choices {unknown} not in the table")
        self.names = {**record, "zero_centred_norms": 0, "checkpoint_version": 3, **defaults, **choices}
        self.rows = [r for r in rows_of(self.table, family, self.names)]
        self.places = first_fit(self.table.get("places", ()), self.names)

    def applying(self):
        """(row, {"l": layer}) for each row that stands for a tensor of this model: its roles exist and its `when` holds."""
        for row in self.rows:
            layered = any("{l}" in r for r in parts_of(row).values())
            for index in ({"l": l} for l in range(self.names["layers"])) if layered else ({},):
                if all(concrete(r, index) in self.roles for r in parts_of(row).values()) and evaluate(row.get("when", "true"), {**self.names, **index}):
                    yield row, index

    def place(self, row, index, **words):
        role = concrete(row.get("at") or next(iter(parts_of(row).values())), index)
        formula = next((f for pattern, f in self.places.items() if pattern != "when" and fnmatch.fnmatch(role, pattern)), None)
        if formula is None:
            raise Mismatch(f"{row['name']}: no place for {role}")
        return evaluate(formula, {**self.names, **index, **words})

    def sizes(self, row):
        return {**self.names, **{f: self.names[v] for f, v in row.get("pad", {}).items()}}

    def block(self, row, tp=(0, 1), etp=(0, 1), ep=(0, 1)):
        """The part of each split factor that a rank holds."""
        sizes, found = self.sizes(row), {}
        for factor, (rank, degree) in ((row.get("split"), tp), (row.get("expert_split"), etp), ("experts" if "expert_split" in row else None, ep)):
            if factor:
                if sizes[factor] % degree:
                    raise Mismatch(f"{row['name']}: {factor} {sizes[factor]} does not divide by {degree}")
                found[factor] = (rank * sizes[factor] // degree, (rank + 1) * sizes[factor] // degree)
        return found

    def tensor(self, row, index, **ranks):
        """The stored tensor; what no canonical element covers is 0."""
        return give(row, index, self.roles, self.sizes(row), self.block(row, **ranks))
