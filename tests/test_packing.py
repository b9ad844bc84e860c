"""One packed sequence for many prompts: the tree, its mask, and who shares what."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fute.core.batching import batches, cheapest_batches, full_batches
from fute.models.backends.packing import (
    Question,
    TokenTree,
    build_tree,
    group_by_beginning,
    share_beginnings,
)
from fute.models.backends.rows import FULL, SLIDING, masks_by_kind, positions_and_mask

tokens = st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple)
questions = st.lists(
    st.builds(Question, tokens, st.lists(tokens, min_size=1, max_size=3).map(tuple)), min_size=1, max_size=5
)


def path_to(tree: TokenTree, node: int) -> list[int]:
    path = []
    while node >= 0:
        path.append(tree.tokens[node])
        node = tree.parents[node]
    return path[::-1]


def test_two_prompts_that_begin_alike_share_their_beginning():
    tree = build_tree([Question((7, 8, 1), ((5,),)), Question((7, 8, 2), ((5, 6),))])
    assert tree.tokens == [7, 8, 1, 2, 5]
    assert tree.parents == [-1, 0, 1, 1, 3]
    assert tree.depths == [0, 1, 2, 2, 3]
    assert tree.edges == [[[(2, 5)]], [[(3, 5), (4, 6)]]]
    assert not tree.is_chain


def test_one_prompt_with_single_token_words_is_a_plain_sequence():
    tree = build_tree([Question((7, 8, 9), ((1,), (2,)))])
    assert tree.is_chain
    assert (tree.mask() == np.tril(np.ones((3, 3), dtype=bool))).all()


@given(questions)
def test_every_edge_reads_its_word_after_its_own_prompt(asked):
    tree = build_tree(asked)
    for question, word_edges in zip(asked, tree.edges, strict=True):
        for word, edges in zip(question.words, word_edges, strict=True):
            for i, (node, token) in enumerate(edges):
                assert path_to(tree, node) == [*question.prompt, *word[:i]]
                assert token == word[i]


@given(questions)
def test_mask_shows_ancestors_and_nothing_else(asked):
    tree = build_tree(asked)
    mask = tree.mask()
    for node in range(len(tree)):
        visible = [tree.tokens[i] for i in np.flatnonzero(mask[node])]
        assert visible == path_to(tree, node)
        assert tree.depths[node] == len(visible) - 1


@given(questions)
def test_no_two_children_of_a_node_hold_the_same_token(asked):
    tree = build_tree(asked)
    assert len(set(zip(tree.parents, tree.tokens, strict=True))) == len(tree)


@given(questions)
def test_the_trunk_is_begun_by_all_prompts_and_read_by_none(asked):
    tree = build_tree(asked)
    trunk = tree.trunk
    assert 0 <= trunk < min(len(question.prompt) for question in asked)
    assert all(question.prompt[:trunk] == tuple(tree.tokens[:trunk]) for question in asked)
    assert tree.mask()[trunk:, :trunk].all()


def test_trees_of_one_template_share_its_beginning_and_others_nothing():
    examples, other = tuple(range(100)), tuple(range(50, 90))
    alike = [build_tree([Question((*examples, 7, i), ((1,),))]) for i in range(4)]
    trees = [*alike, build_tree([Question((*other, 3), ((1,),))])]
    assert share_beginnings(trees) == [(101, [0, 1, 2, 3]), (0, [4])]


def test_a_beginning_that_saves_little_is_not_shared():
    few = [build_tree([Question((*range(20), i), ((1,),))]) for i in (30, 31, 32)]
    assert share_beginnings(few) == [(0, [0, 1, 2])]


def test_prompts_with_a_short_common_beginning_stay_apart():
    long, other = (1,) * 10, (1, 1, 2, 2, 2)
    assert group_by_beginning([long, other, (*long, 5)], shared=8) == [[0, 2], [1]]


@given(questions)
def test_a_path_leads_from_the_root_to_its_node(asked):
    tree = build_tree(asked)
    for node in range(len(tree)):
        path = tree.path(node)
        assert path[-1] == node
        assert [tree.tokens[i] for i in path] == path_to(tree, node)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 4)), max_size=30))
def test_batches_count_the_rows_of_each_item(items):
    sizes, rows = [size for size, _ in items], [row for _, row in items]
    made = batches(sizes, 100, rows, most=5)
    assert sorted(i for batch in made for i in batch) == list(range(len(items)))
    for batch in made:
        inside = sum(rows[i] for i in batch)
        assert len(batch) == 1 or (inside <= 5 and inside * max(sizes[i] for i in batch) <= 100)


@given(st.lists(st.integers(1, 50), max_size=30))
def test_batches_hold_everything_once_within_the_budget(sizes):
    made = batches(sizes, budget=60)
    assert sorted(i for batch in made for i in batch) == list(range(len(sizes)))
    assert all(len(batch) == 1 or len(batch) * max(sizes[i] for i in batch) <= 60 for batch in made)


def tens(size):
    return -(-size // 10) * 10


def test_full_batches_begin_with_the_largest():
    assert full_batches([3, 21, 9, 12, 18], 40, tens) == [[1], [4, 3], [2, 0]]


@given(st.lists(st.integers(1, 50), max_size=30))
def test_full_batches_hold_everything_once_and_as_much_as_fits(sizes):
    made = full_batches(sizes, 60, tens)
    assert sorted(i for batch in made for i in batch) == list(range(len(sizes)))
    most = [max(1, 60 // tens(max(sizes[i] for i in batch))) for batch in made]
    assert [len(batch) for batch in made[:-1]] == most[:-1]
    assert not made or 1 <= len(made[-1]) <= most[-1]
    assert [sizes[i] for batch in made for i in batch] == sorted(sizes, reverse=True)


def all_cuts(ordered):
    """Every way to cut a list into pieces."""
    if not ordered:
        yield []
    for i in range(1, len(ordered) + 1):
        yield from ([ordered[:i], *rest] for rest in all_cuts(ordered[i:]))


@given(st.lists(st.integers(1, 9), max_size=7), st.integers(1, 30), st.integers(0, 12))
@settings(deadline=None)
def test_batches_are_cut_where_padding_and_batches_together_cost_least(sizes, budget, each):
    def cost(pieces):
        return sum(each + len(piece) * max(piece) for piece in pieces)

    def fits(piece):
        return len(piece) == 1 or len(piece) * max(piece) <= budget

    cut = cheapest_batches(sizes, budget, each)
    assert sorted(i for batch in cut for i in batch) == list(range(len(sizes)))
    own = [[sizes[i] for i in batch] for batch in cut]
    assert all(map(fits, own))
    assert [size for batch in own for size in batch] == sorted(sizes)
    assert cost(own) == min(cost(pieces) for pieces in all_cuts(sorted(sizes)) if all(map(fits, pieces)))


def test_short_texts_do_not_wait_for_long_ones_where_a_batch_costs_little():
    sizes = [10, 90, 11, 10, 100]
    assert cheapest_batches(sizes, 500, each=50) == [[0, 3, 2], [1, 4]]
    assert cheapest_batches(sizes, 500, each=500) == [[0, 3, 2, 1, 4]]
    assert cheapest_batches(sizes, 150, each=500) == [[0, 3, 2], [1], [4]]


def test_a_sliding_layer_sees_ancestors_less_than_its_window_before():
    """Two prompts, 5 6 7 and 5 8, behind a kept beginning of two tokens; a window of 3."""
    tree = build_tree([Question((1, 2, 5, 6, 7), ((9,),)), Question((1, 2, 5, 8), ((9,),))])
    positions, mask = positions_and_mask([tree], 2, 5)  # 5 6 7 8 and a place for padding
    assert positions[0].tolist() == [0, 1, 2, 3, 4, 3, 0]
    made = masks_by_kind(positions, mask, {FULL, SLIDING}, 3)
    assert made[FULL][0, 0, :4].int().tolist() == [
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 1, 0],
    ]
    assert made[SLIDING][0, 0, :4].int().tolist() == [
        [1, 1, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 1, 1, 0, 0, 1, 0],
    ]
    assert made[SLIDING].any(dim=-1).all(), "padding sees itself"
    assert list(masks_by_kind(positions, mask, {FULL, SLIDING}, 5)) == [FULL], "all within the window"
    assert list(masks_by_kind(positions, mask, {SLIDING}, 3)) == [SLIDING]
