# %% [markdown]
# # Sudoku
#
# Can a layer learn the rules of a game from solved games alone? A board of 4x4 Sudoku is an array of zeros and ones: 4 rows,
# 4 columns and 4 numbers, 64 entries in all. A puzzle $p$ is a board with some of its cells empty. The layer answers it with
# the solution of a quadratic program,
#
# $$\begin{array}{ll} \underset{z}{\text{minimize}} & \tfrac12 \cdot 0.1\, z^T z - p^T z \\
# \text{subject to} & A z = b,\quad z \ge 0, \end{array}$$
#
# which knows nothing of the game. The matrix $A$ is a weight, random at first. The rules of Sudoku are such an $A$: each cell
# holds one number, and each number occurs once in every row, column and block. Amos and Kolter showed with OptNet (2017) that
# gradient steps find equivalent rules. Boards, puzzles and the module `Solver` around `QPLayer` are from
# `examples/sudoku.py`.

# %%
import itertools
import os
import sys

import matplotlib.pyplot as plt
import numpy as np
import torch

sys.path.insert(0, "../../examples")
from sudoku import CELLS, NUMBERS, ROWS, SIZE, Solver, boards, puzzles, read, rules, score

short = os.environ.get("CVXLAYERS_NOTEBOOKS") == "short"
random, every = np.random.default_rng(0), boards()
order = random.permutation(len(every))
train = puzzles(every[order[:200]], every, 300 if short else 2000, random)
test = puzzles(
    every[order[200:]], every, 50 if short else 200, random
)  # of boards that are not learned from
solver = Solver(
    torch.tensor(random.random((ROWS, SIZE))), torch.zeros(SIZE, dtype=torch.float64)
)
print(
    f"{len(every)} boards; {len(train.given)} puzzles to learn from, {len(test.given)} to be tested with"
)

# %% [markdown]
# ## Learning
#
# A has 40 rows, as many as the rules have when those that follow from others are left out. To keep the problem feasible,
# $b = A z_0$ with a positive $z_0$ that is learned, too. The loss is the squared distance from the solved boards. All
# puzzles of a batch share $A$: its gradient is summed over them.

# %%
steps = 60 if short else 500
optimizer = torch.optim.Adam(solver.parameters(), lr=0.1)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
generator = torch.Generator().manual_seed(0)
curve = [(0, *score(solver, test))]
for step in range(1, steps + 1):
    batch = torch.randint(len(train.given), (32,), generator=generator)
    loss = (solver(train.given[batch]) - train.solution[batch]).square().sum(-1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    if step % 20 == 0:
        curve.append((step, *score(solver, test)))
numbers, solved, errors = (np.array(part) for part in zip(*curve, strict=True))

# %% [markdown]
# ## A new puzzle
#
# Black numbers are given, red ones are the layer's: in each cell the number with the largest entry.

# %%
with torch.no_grad():
    answers = solver(test.given)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), width_ratios=[3, 2])
left.plot(numbers, 100 * solved, "o-", ms=4)
left.set(
    xlabel="gradient step",
    ylabel="new puzzles solved, %",
    ylim=(-3, 103),
    title="Learning the rules",
)
twin = left.twinx()
twin.semilogy(numbers, errors, color="tab:orange")
twin.grid(False)
twin.set_ylabel("squared error", color="tab:orange")

given = test.given[0].reshape(NUMBERS, NUMBERS, NUMBERS).sum(-1)
found = answers[0].reshape(NUMBERS, NUMBERS, NUMBERS)
right.imshow(found.amax(-1).numpy(), cmap="Blues", vmin=0, vmax=1.6)
for i, j in itertools.product(range(NUMBERS), repeat=2):
    colour = "black" if given[i, j] else "tab:red"
    right.text(
        j,
        i,
        str(int(found[i, j].argmax()) + 1),
        ha="center",
        va="center",
        fontsize=20,
        color=colour,
    )
for line in (0.5, 1.5, 2.5):
    right.axhline(line, color="black", lw=3 if line == 1.5 else 0.8)
    right.axvline(line, color="black", lw=3 if line == 1.5 else 0.8)
right.grid(False)
right.set(xticks=[], yticks=[], title="Dark: sure")
plt.show()

# %% [markdown]
# With the true rules as $A$ the same layer solves every puzzle, so the form of the problem is rich enough. What was learned:

# %%
known = Solver(rules(), torch.full((SIZE,), 1 / NUMBERS, dtype=torch.float64).log())
cells = (read(answers) == read(test.solution)).double().mean().item()
print(f"squared error on new puzzles: {errors[0]:.2f} at the start, {errors[-1]:.2f} learned")
print(
    f"solved: {solved[0]:.0%} at the start, {solved[-1]:.0%} learned, {score(known, test)[0]:.0%} with the rules"
)
print(f"cells that are right: {cells:.0%}, of {CELLS} in a board")

assert score(known, test)[0] == 1
assert errors[-1] < (0.3 if short else 0.1) * errors[0]
assert short or solved[-1] > 0.8
