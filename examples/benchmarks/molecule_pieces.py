"""SMILES as a row of pieces: whole rings, and the atoms between them.

Every single bond outside rings is cut. A piece is what is left between cuts, with a `*` for each
bond that leads on from it: `c1ccc(*)cc1` is a benzene ring with one thing more in para position.
Written piece by piece in the order of the string, each followed by what hangs at its stars
(Polish notation), a molecule is a row of pieces and nothing else:

    COc1ccc(F)cc1  ->  C* O* c1ccc(*)cc1 F

A row is a molecule only if its stars and what fills them agree: a row of n pieces has n - 1 stars,
and no shorter beginning of it is complete. Ring numbers are per piece, 1, 2, ...; in the string
each piece gets numbers of its own.

A token is a piece and the number of stars that are still empty behind it (`C*|1 O*|1
c1ccc(*)cc1|1 F|0`), as indentation tells how deep a line of code is: so that whether a row adds up
is a matter of neighbours, which a small network learns sooner than to count. The number is for the
network alone; what is judged is the molecule of the pieces.
"""

import re
from collections import Counter

TOKEN = re.compile(r"(\[[^\]]+\]|Br|Cl|[BCNOPSFIbcnops])|([-=#:/\\])|(%\d\d|\d)|([()])")
RING = re.compile(r"%\d\d|\d")
STAR, PAD, MASK = "*", "_", "?"  # the last two are no pieces of a molecule
BEHIND = "|"  # between a piece and the number of empty stars behind it


class Atoms:
    """Of each atom of a SMILES string of one component, in its order: the atom before it in the
    tree of the string, the sign of the bond to it, where its text starts, and whether that bond
    is in a ring."""

    def __init__(self, smiles):
        self.before, self.bond, self.start, self.in_ring = [], [], [], []
        self._depth, last, branches, sign, begins = [], None, [], "", 0
        opened = {}
        for found in TOKEN.finditer(smiles):
            atom, bond, ring, bracket = found.groups()
            if atom:
                self.start.append(begins if sign else found.start())
                self.before.append(last)
                self.bond.append(sign)
                self.in_ring.append(False)
                self._depth.append(0 if last is None else self._depth[last] + 1)
                last, sign = len(self.before) - 1, ""
            elif bond:
                sign, begins = bond, found.start()
            elif ring:
                if ring in opened:
                    self._close(opened.pop(ring), last)
                else:
                    opened[ring] = last
                sign = ""
            elif bracket == "(":
                branches.append(last)
            else:
                last = branches.pop()

    def _close(self, one, other):
        """All bonds of the tree between two atoms that a ring number joins are in a ring."""
        while one != other:
            if self._depth[one] < self._depth[other]:
                one, other = other, one
            self.in_ring[one] = True
            one = self.before[one]


def pieces_of(smiles):
    """The pieces of one molecule, in order."""
    atoms = Atoms(smiles)
    cuts = {
        atoms.start[i]
        for i in range(1, len(atoms.start))
        if not atoms.in_ring[i] and atoms.bond[i] in ("", "-")
    }
    row = []

    def visit(begin, end):
        """The piece that starts at `begin`, and what hangs at it."""
        place, text, i = len(row), "", begin
        row.append(None)
        while i < end:
            if i in cuts and i != begin:
                text += STAR
                stop = _end_of_branch(smiles, i)
                visit(i, stop)
                i = stop
            else:
                text += smiles[i]
                i += 1
        names = {}
        row[place] = RING.sub(
            lambda m: str(names.setdefault(m[0], len(names) + 1)), text.removeprefix("-")
        )

    visit(0, len(smiles))
    return row


def _end_of_branch(smiles, start):
    """Where what starts at `start` ends: at the bracket that closes it, or with the string."""
    depth = 0
    for i in range(start, len(smiles)):
        depth += (smiles[i] == "(") - (smiles[i] == ")")
        if depth < 0:
            return i
    return len(smiles)


def smiles_of(row):
    """The string of a row of pieces; None where a star is left empty or a piece is left over."""
    left, rings = iter(row), 0

    def filled():
        """The text of the next piece and of all that hangs at it."""
        nonlocal rings
        piece, first = next(left), rings
        rings += max([0, *map(int, RING.findall(piece))])
        piece = RING.sub(lambda m: _ring_number(int(m[0]) + first), piece)
        head, *tails = piece.split(STAR)
        return head + "".join([filled() + tail for tail in tails])

    try:
        text = filled()
    except StopIteration:
        return None
    return text if next(left, None) is None else None


def _ring_number(number):
    return str(number) if number < 10 else f"%{number}"


def counted(row):
    """The pieces of a molecule with the number of empty stars behind each."""
    names, empty = [], 1
    for piece in row:
        empty += piece.count(STAR) - 1
        names.append(f"{piece}{BEHIND}{empty}")
    return names


class Vocabulary:
    """Pieces with their numbers of empty stars; padding is the first token, the mask the last."""

    def __init__(self, names):
        self.names = [PAD, *names, MASK]
        self.index = {name: i for i, name in enumerate(self.names)}

    @classmethod
    def of(cls, rows, size):
        """The most frequent of some rows of pieces, `size` with padding and mask; of equally
        frequent ones the first in the alphabet."""
        counts = Counter(name for row in rows for name in counted(row))
        most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: size - 2]
        return cls([name for name, _ in most])

    def __len__(self):
        return len(self.names)

    def tokens(self, row, length):
        """The padded tokens of a row of pieces; None if it is longer or has another piece."""
        names = counted(row)
        if len(names) > length or any(name not in self.index for name in names):
            return None
        return [self.index[name] for name in names] + [0] * (length - len(names))

    def smiles(self, tokens):
        """The string of a row of tokens; of what is none, its pieces with spaces between them.

        Padding is taken off the end alone: within a row it is an error of the model.
        """
        names = [self.names[i] for i in tokens]
        while names and names[-1] == PAD:
            names.pop()
        row = [name.split(BEHIND)[0] for name in names]
        whole = None if PAD in row or MASK in row else smiles_of(row)
        return " ".join(row) if whole is None else whole
