"""What stands in for jaxtyping where code is carried without an install: tensors without shapes."""

from __future__ import annotations


class Shaped:
    """`Shaped[Tensor, "B L"]` is `Tensor`: the shape is for the reader alone."""

    def __class_getitem__(cls, named: tuple[type, str]) -> type:
        return named[0]


Bool = Float = Int64 = Shaped
