"""The likeliest token, by two looks."""

import torch

from hf_ddistill.linalg.likeliest import PIECE, likeliest


def test_the_first_of_the_greatest_entries_is_found_in_pieces_and_in_what_is_left_over():
    generator = torch.Generator().manual_seed(0)
    for size in (5, 16 * PIECE, 16 * PIECE + 77):
        values = torch.randint(0, 9, (3, 4, size), generator=generator).float()
        values[0, 0, -1] = values[0, 1, 0] = values[0, 2, 3:] = 10.0
        greatest, found = likeliest(values)
        assert torch.equal(found, values.argmax(-1))
        assert torch.equal(greatest, values.amax(-1))
        assert found[0, 0] == size - 1 and found[0, 2] == 3
