"""A fill-reducing order for sparse symmetric matrices: minimum degree on the quotient graph.

Eliminating a variable joins its neighbours to a clique. The quotient graph keeps such a clique as one "element" instead
of as edges (George and Liu 1989), and the degree of a variable is bounded from above by the sizes of its elements
(Amestoy, Davis, Duff 1996). Variables that have become indistinguishable are merged and eliminated together.
"""

from __future__ import annotations

import heapq
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

__all__ = ["minimum_degree"]


def minimum_degree(
    rows: NDArray[np.integer], columns: NDArray[np.integer], size: int, external: bool = True
) -> NDArray[np.int32]:
    """The order in which to eliminate the variables of a symmetric matrix.

    Parameters
    ----------
    rows, columns : (nnz,) int
        Positions of nonzeros, each from one or both triangles; the diagonal counts as present.
    size : int
        Order of the matrix.
    external : bool
        Whether merged variables count only their neighbours outside (Liu 1985: better on sparse matrices) or also each
        other (better where few variables border on many alike, as in dense problems).

    Returns
    -------
    (size,) int32
        Entry i is the variable that comes i-th.

    Examples
    --------
    A star: its centre, variable 0, comes among the last two.

    >>> minimum_degree(np.array([1, 2, 3]), np.array([0, 0, 0]), 4).tolist().index(0) >= 2
    True
    """
    return _QuotientGraph(rows, columns, size, external).eliminate()


class _QuotientGraph:
    """Variables with their remaining edges and elements, and elements with their variables."""

    def __init__(self, rows: NDArray[np.integer], columns: NDArray[np.integer], size: int, external: bool) -> None:
        self.external = external
        self.edges: list[set[int]] = [set() for _ in range(size)]
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
            if i != j:
                self.edges[i].add(j)
                self.edges[j].add(i)
        self.elements: list[set[int]] = [set() for _ in range(size)]
        self.members: dict[int, set[int]] = {}
        self.merged: list[list[int]] = [[i] for i in range(size)]
        self.weight = [1] * size
        self.degree = [len(edges) for edges in self.edges]
        self.done = [False] * size

    def eliminate(self) -> NDArray[np.int32]:
        heap = [(degree, i) for i, degree in enumerate(self.degree)]
        heapq.heapify(heap)
        order: list[int] = []
        while heap:
            degree, pivot = heapq.heappop(heap)
            if self.done[pivot] or degree != self.degree[pivot]:
                continue
            order += self.merged[pivot]
            for i in self._pivot(pivot):
                heapq.heappush(heap, (self.degree[i], i))
        return np.array(order, dtype=np.int32)

    def _pivot(self, pivot: int) -> list[int]:
        """Make the pivot an element; return the variables whose degrees have changed."""
        front = set(self.edges[pivot])
        absorbed = self.elements[pivot]
        for element in absorbed:
            front |= self.members.pop(element)
        front.discard(pivot)
        self.done[pivot] = True
        self.members[pivot] = front
        outside = self._outside(front, absorbed)
        twins: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for i in front:
            elements = self.elements[i]
            elements -= absorbed
            edges = self.edges[i]
            edges -= front
            edges.discard(pivot)
            # An element that lies within the new one has nothing to add.
            for element in [e for e in elements if outside.get(e) == 0]:
                elements.discard(element)
            elements.add(pivot)
            twins[hash((len(edges), sum(edges))), sum(elements)].append(i)
        self._merge(twins, front)
        return self._update(pivot, front, outside)

    def _outside(self, front: set[int], absorbed: set[int]) -> dict[int, int]:
        """The weight of each element's variables outside the front, for elements that touch it."""
        outside: dict[int, int] = {}
        weight = self.weight.__getitem__  # sums of it take most of the time
        for i in front:
            for element in self.elements[i]:
                if element in absorbed:
                    continue
                if element not in outside:
                    outside[element] = sum(map(weight, self.members[element]))
                outside[element] -= self.weight[i]
        return outside

    def _merge(self, twins: defaultdict[tuple[int, int], list[int]], front: set[int]) -> None:
        """Merge the variables of the front that have the same edges and elements."""
        for alike in twins.values():
            while len(alike) > 1:
                first, *others = alike
                alike = []
                for i in others:
                    if self.edges[i] == self.edges[first] and self.elements[i] == self.elements[first]:
                        self._absorb(first, i, front)
                    else:
                        alike.append(i)

    def _absorb(self, first: int, i: int, front: set[int]) -> None:
        self.merged[first] += self.merged[i]
        self.weight[first] += self.weight[i]
        self.done[i] = True
        front.discard(i)
        for element in self.elements[i]:
            self.members[element].discard(i)
        for k in self.edges[i]:
            self.edges[k].discard(i)

    def _update(self, pivot: int, front: set[int], outside: dict[int, int]) -> list[int]:
        """Bound the degrees of the front's variables anew."""
        weight = self.weight.__getitem__
        total, outside[pivot] = sum(map(weight, front)), 0
        for i in front:
            bound = total - (weight(i) if self.external else 1) + sum(map(weight, self.edges[i]))
            bound += sum(map(outside.__getitem__, self.elements[i]))
            self.degree[i] = bound
        return list(front)
