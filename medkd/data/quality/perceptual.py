"""Perceptual hash: 256 bits that images keep when they are scaled, compressed or made brighter.

The low frequencies of the cosine transform, each above their median or not (pHash; Zauner 2010), in
2D as in 3D; in 2D what ``imagehash.phash`` computes.
"""

from collections import defaultdict

import numpy as np
from scipy import fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medkd.data.memory import PIECE, pieces

EDGE = 32  # voxels of the reduced image along each axis
KEPT = {2: 16, 3: 6}  # frequencies along each axis: 256 and 216 of them
BITS = 256
NEAR_BITS = 24  # of near-duplicates; 108 of 108 such pairs of BUSI are true, and none elsewhere
LEAST_VALUES = 16  # distinct; binary shapes are alike without being one image
LONGEST_RUN = 512  # equal words in a row that are paired with one another


def perceptual_hash(array: np.ndarray) -> bytes | None:
    """Return 32 bytes for ``[channels, *space]``, or None where too few values say too little."""
    # slab by slab: reduceat would copy all of it as float32
    slabs = np.array_split(array, min(-(-array.size // PIECE), array.shape[-1]), axis=-1)
    greys = (slab[0] if len(slab) == 1 else slab.mean(axis=0) for slab in slabs)
    reduced = np.concatenate([_shrunk(grey, 0) for grey in greys], axis=-1)
    for axis in range(1, reduced.ndim):
        reduced = _shrunk(reduced, axis)
    if len(np.unique(np.round(reduced, 6))) < LEAST_VALUES or _is_binary(array[0]):
        return None
    low = fft.dctn(reduced)[(slice(KEPT[reduced.ndim]),) * reduced.ndim].ravel()
    bits = np.zeros(BITS, bool)
    bits[: len(low)] = low > np.median(low)
    return np.packbits(bits).tobytes()


def _is_binary(channel: np.ndarray) -> bool:
    least, most = channel.min(), channel.max()
    return all(((part == least) | (part == most)).all() for part in pieces(channel))


def _shrunk(array: np.ndarray, axis: int) -> np.ndarray:
    """Average an axis down to ``EDGE`` voxels; a shorter one repeats its voxels."""
    size = array.shape[axis]
    starts = np.arange(EDGE) * size // EDGE
    counts = np.maximum(np.diff(np.append(starts, size)), 1)
    shape = [-1 if i == axis else 1 for i in range(array.ndim)]
    return np.add.reduceat(array, starts, axis=axis, dtype=np.float32) / counts.reshape(shape)


def near_groups(hashes: np.ndarray) -> list[list[int]]:
    """Return the rows of ``[n, 32]`` uint8 that are near to one another, group by group.

    Near are hashes that differ in at most ``NEAR_BITS`` bits, and what is near to either of a pair
    is of its group. Two hashes that differ in 15 bits share one of their 16 words, so only hashes
    that share a word are compared (Norouzi et al. 2012); of pairs that differ in all of 24 bits 2 %
    are missed. The bits are shuffled first: neighbouring frequencies tell much the same.
    """
    if not len(hashes):
        return []
    each, row_of = np.unique(hashes, axis=0, return_inverse=True)
    bits = np.unpackbits(each, axis=1)[:, np.random.default_rng(0).permutation(BITS)]
    words = np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint16)
    whole = np.ascontiguousarray(each).view(np.uint64)
    group_of = np.arange(len(each))  # the first of each one's group
    for word in words.T:
        pairs = _sharing(word, whole, group_of)
        links = np.concatenate([pairs.T, [np.arange(len(each)), group_of]], axis=1)
        graph = coo_array((np.ones(links.shape[1], bool), links), shape=(len(each), len(each)))
        _, labels = connected_components(graph, directed=False)
        group_of = np.unique(labels, return_index=True)[1][labels]
    groups: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(group_of[row_of.ravel()].tolist()):
        groups[group].append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def _sharing(word: np.ndarray, whole: np.ndarray, group_of: np.ndarray) -> np.ndarray:
    """Return ``[pairs, 2]``: near hashes with the same word that are not of one group already."""
    order = np.argsort(word, kind="stable")
    ordered, found = word[order], [np.empty((0, 2), np.intp)]
    place = np.arange(len(order))
    for step in range(1, LONGEST_RUN):
        place = place[place + step < len(order)]
        place = place[ordered[place] == ordered[place + step]]
        if not len(place):
            break
        pairs = np.stack([order[place], order[place + step]], axis=1)
        pairs = pairs[group_of[pairs[:, 0]] != group_of[pairs[:, 1]]]
        apart = np.bitwise_count(whole[pairs[:, 0]] ^ whole[pairs[:, 1]]).sum(axis=1)
        found.append(pairs[apart <= NEAR_BITS])
    return np.concatenate(found)
