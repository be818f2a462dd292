"""How many tiles of an image count."""

import math

import pyarrow as pa

from crackvae.model.image_scores import images_by_tiles, surface_tiles


def test_tiles_without_a_surface_are_no_tiles_of_an_image() -> None:
    scores = [[1.0], [2.0, math.nan, 3.0], [], [math.nan, 4.0], [5.0, 6.0]]
    part = pa.table({"tile_scores": pa.array(scores, pa.list_(pa.float32()))})
    assert surface_tiles(part).tolist() == [1, 2, 0, 1, 2]
    both = pa.concat_tables([part.slice(1, 2), part.filter(pa.array([False, False, False, True, True]))])
    assert surface_tiles(both).tolist() == [2, 0, 1, 2] and images_by_tiles(both) == {0: 1, 1: 1, 2: 2}
    assert images_by_tiles(part.slice(0, 0)) == {}
