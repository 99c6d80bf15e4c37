"""The paper's figures of real traces: what is drawn is what the trace holds, read off the artists."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from families import Family
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from sklearn.manifold import trustworthiness
from sklearn.preprocessing import MaxAbsScaler
from transformers import AutoTokenizer

from mutation_decode import Contrast, Detector, MutationLogitsProcessor, Record, Trace, plot

WATCH = Contrast(alpha=0.0, layer=0, always=True)
SHIPPED = Path(__file__).parents[1] / "benchmarks" / "miniature" / "models" / "miniature-late-prior"


@pytest.fixture(scope="module")
def both(one: Family) -> Trace:
    """Two answers of ten tokens, 8 blocks, named by the miniature's words."""
    record = Record(top=5, states=True)
    with MutationLogitsProcessor(one.model, WATCH, detector=Detector.paper(), trace=record) as processor:
        one.answers(0, 1, logits_processor=[processor])
        assert processor.trace is not None
        return processor.trace.named(AutoTokenizer.from_pretrained(SHIPPED))


@pytest.fixture(scope="module")
def trace(both: Trace) -> Trace:
    return both.row(1)


def told(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_token_probabilities_are_those_of_the_trace(trace: Trace) -> None:
    axes = plot.token_probabilities(trace)
    np.testing.assert_allclose(axes.images[0].get_array(), trace.prob[0])
    assert axes.images[0].get_clim() == (0, 1)
    assert (axes.get_xlabel(), told(axes)) == ("readout", plot.labels(trace))
    assert axes.images[0].colorbar.ax.get_ylabel() == "probability of the emitted token"
    axes.figure.canvas.draw()
    some = plot.token_probabilities(trace, range(4, 7))
    np.testing.assert_allclose(some.images[0].get_array(), trace.prob[0, 4:7])
    assert told(some) == plot.labels(trace)[4:7]


def test_rivals_are_the_word_said_and_the_likeliest_other_one_before_the_mutation(trace: Trace) -> None:
    def first_other(token: int, readout: int) -> int:
        said = int(trace.tokens[0, token])
        return next(id_ for id_ in trace.top_ids[0, token, readout].tolist() if id_ != said)

    fired = trace.fired[0].nonzero().flatten().tolist()
    token = next(at for at in fired if first_other(at, int(trace.pre_mutation[0, at])) != first_other(at, 8))
    before = int(trace.pre_mutation[0, token])
    said, other = int(trace.tokens[0, token]), first_other(token, before)
    assert plot.rival_of(trace, token) == other
    axes = plot.rivals(trace, token)
    first, second, where = axes.get_lines()
    np.testing.assert_allclose(first.get_ydata(), trace.prob[0, token])
    drawn = np.asarray(second.get_ydata())
    for readout in range(9):
        ids = trace.top_ids[0, token, readout].tolist()
        expected = trace.top_probs[0, token, readout, ids.index(other)] if other in ids else torch.nan
        np.testing.assert_allclose(drawn[readout], expected, rtol=1e-6)
    assert np.isfinite(drawn[before])
    assert list(where.get_xdata()) == [before, before]
    assert [line.get_text() for line in axes.get_legend().get_texts()] == [
        f"{trace.names[said] or f'#{said}'} (said)",
        f"{trace.names[other] or f'#{other}'} (not said)",
    ]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("readout", "probability")
    given = next(id_ for id_ in range(120) if id_ not in (said, other))
    np.testing.assert_array_equal(
        plot.rivals(trace, token, given).get_lines()[1].get_ydata(), plot.probability_of(trace, token, given)
    )


def test_without_a_mutation_the_rival_is_the_models_own_second_choice(trace: Trace) -> None:
    calm = replace(
        trace, fired=torch.zeros_like(trace.fired), pre_mutation=torch.full_like(trace.critical, 8)
    )
    assert plot.rival_of(calm, 3) == int(trace.top_ids[0, 3, 8, 1])
    assert len(plot.rivals(calm, 3).get_lines()) == 2


def test_states_are_scaled_and_near_in_the_plane_where_they_are_near(trace: Trace) -> None:
    places = plot.embedded(trace.states[0])
    assert places.shape == (10, 9, 2)
    np.testing.assert_array_equal(places, plot.embedded(trace.states[0].clone()))
    points = MaxAbsScaler().fit_transform(trace.states[0].reshape(90, -1).numpy())
    assert trustworthiness(points, places.reshape(90, 2), n_neighbors=5) > 0.9
    loud = torch.ones(32)
    loud[3] = 1024
    np.testing.assert_array_equal(plot.embedded(loud * trace.states[0]), places)
    axes = plot.states_of_answer(trace, places=places)
    dots = axes.collections[0]
    np.testing.assert_allclose(dots.get_offsets(), places.reshape(90, 2))
    np.testing.assert_allclose(dots.get_array().reshape(10, 9), np.broadcast_to(np.arange(9), (10, 9)))
    assert axes.get_legend() is None
    assert "no unit" in axes.get_xlabel()
    few = plot.states_of_answer(trace, tokens=[0, 5])
    assert len(few.collections[0].get_offsets()) == 18


def test_states_of_images_have_a_form_for_each_answer(both: Trace) -> None:
    axes = plot.states_of_images(both, ["no", "yes"])
    places = plot.embedded(both.states[:, 0])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["no", "yes"]
    for row, dots in enumerate(axes.collections):
        np.testing.assert_allclose(dots.get_offsets(), places[row])
        np.testing.assert_allclose(dots.get_array(), range(9))
    forms = [dots.get_paths()[0].vertices.shape for dots in axes.collections]
    assert forms[0] != forms[1], "not colour alone"
    assert plot.states_of_images(both).get_legend() is None


def test_with_and_without_the_image_every_generated_token_counts_once(both: Trace, trace: Trace) -> None:
    ended = both.generated.clone()
    ended[0, 4:] = False
    axes = plot.with_and_without_image(replace(both, generated=ended), trace)
    seen, unseen = axes.get_lines()
    expected = torch.cat([both.js[0, :4], both.js[1]]).double().mean(dim=0)
    np.testing.assert_allclose(seen.get_ydata(), expected)
    np.testing.assert_allclose(unseen.get_ydata(), trace.js[0].double().mean(dim=0))
    assert [line.get_label() for line in axes.get_lines()] == [
        "with the image (n = 14)",
        "without it (n = 10)",
    ]


def test_a_mark_is_not_colour_alone(trace: Trace) -> None:
    axes = plot.token_probabilities(trace)
    plot.mark(axes, [2])
    plain, marked = axes.get_yticklabels()[1:3]
    assert marked.get_text() == f"* {plot.labels(trace)[2]}"
    assert (marked.get_fontweight(), plain.get_fontweight()) == ("bold", "normal")
    assert to_rgba(marked.get_color()) == to_rgba(plot.COLOURS[1]) != to_rgba(plain.get_color())
    axes.figure.canvas.draw()
    assert told(axes)[2].startswith("* ")


def test_labels_fit_beside_an_axis(trace: Trace) -> None:
    texts = (" cat", "\n", "", "$x_", "a\tb", " ", "Donaudampfschifffahrt", "", ".", "e")
    odd = replace(trace, texts=(texts,), names={int(trace.tokens[0, 2]): "</s>"})
    shown = plot.labels(odd)
    assert shown[:3] == ["cat", "'\\n'", "</s>"]
    assert shown[4:7] == ["'a\\tb'", "' '", "Donaudampfschif\u2026"]
    axes = plot.token_probabilities(odd)
    axes.figure.canvas.draw()  # a dollar is no formula
    assert told(axes)[3] == "$x_"
    assert plot.labels(replace(trace, texts=None))[0] == f"#{int(trace.tokens[0, 0])}"


def test_an_answer_without_tokens_has_a_picture(trace: Trace) -> None:
    empty = replace(trace, generated=torch.zeros_like(trace.generated), texts=((),)).row(0)
    for axes in (plot.token_probabilities(empty), plot.js_heatmap(plot.labels(empty), empty.js[0].numpy())):
        assert axes.texts[0].get_text() == "no tokens"
        axes.figure.canvas.draw()


def test_no_letter_is_below_seven_points_and_no_picture_wider_than_a_page(trace: Trace) -> None:
    deep = replace(trace, prob=torch.rand(1, 10, 49), js=torch.rand(1, 10, 48))
    for axes in (
        plot.token_probabilities(deep),
        plot.js_heatmap(plot.labels(deep), deep.js[0]),
        plot.rivals(trace, 0),
        plot.states_of_answer(trace, places=np.zeros((10, 9, 2))),
    ):
        assert axes.figure.get_size_inches()[0] <= 7.2
        labels = [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, axes.yaxis.label]
        assert min(label.get_fontsize() for label in labels) >= 7


def test_given_axes_are_used(both: Trace, trace: Trace) -> None:
    axes = Figure().subplots(1, 5)
    assert plot.token_probabilities(trace, ax=axes[0]) is axes[0]
    assert plot.rivals(trace, 0, ax=axes[1]) is axes[1]
    assert plot.states_of_answer(trace, places=np.zeros((10, 9, 2)), ax=axes[2]) is axes[2]
    assert plot.states_of_images(both, places=np.zeros((2, 9, 2)), ax=axes[3]) is axes[3]
    assert plot.with_and_without_image(both, trace, axes[4]) is axes[4]


def test_what_cannot_be_drawn_is_refused(both: Trace, trace: Trace) -> None:
    bare = replace(trace, prob=None, top_ids=None, top_probs=None, states=None)
    for draw in (plot.token_probabilities, lambda trace: plot.rivals(trace, 0)):
        with pytest.raises(ValueError, match=r"record the trace with trace=Record\(\)\."):
            draw(bare)
        with pytest.raises(ValueError, match=r"draws one answer, got 2 rows; pass trace\.row\(i\)"):
            draw(both)
    for draw in (plot.states_of_answer, plot.states_of_images):
        with pytest.raises(ValueError, match=r"record the trace with trace=Record\(states=True\)"):
            draw(bare)
    with pytest.raises(ValueError, match="token 10 is none of the 10 of this answer"):
        plot.rivals(trace, 10)
    with pytest.raises(ValueError, match=r"tokens range\(8, 12\) are not all among the 10"):
        plot.token_probabilities(trace, range(8, 12))
    said = replace(trace, top_ids=trace.tokens[:, :, None, None].expand(1, 10, 9, 1))
    with pytest.raises(ValueError, match=r"only the likeliest token; record it with Record\(top=5\)"):
        plot.rival_of(said, 0)
    with pytest.raises(ValueError, match="one of them has none"):
        plot.states_of_images(replace(both, generated=torch.zeros_like(both.generated)))
    with pytest.raises(ValueError, match="an answer for each of 2 rows, got 3"):
        plot.states_of_images(both, ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"of 5 points at least, got \(0, 9, 32\)"):
        plot.embedded(trace.states[0, :0])
    with pytest.raises(ValueError, match="not finite"):
        plot.embedded(torch.full((2, 9, 4), torch.inf))
    with pytest.raises(ValueError, match="draws js, got traces of kl"):
        plot.with_and_without_image(both, replace(both, divergence="kl"))


def test_a_missing_scikit_learn_is_named(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(ImportError, match=r"scikit-learn; pip install 'mutation-decode\[plots\]'"):
        plot.states_of_answer(trace)


def test_another_process_draws_the_same_and_imports_nothing_before(trace: Trace, tmp_path: Path) -> None:
    trace.save(tmp_path / "one.safetensors")
    code = (
        "import sys; from mutation_decode import Trace, plot\n"
        "print({'matplotlib', 'sklearn'} & {*sys.modules})\n"
        "trace = Trace.load(sys.argv[1] + '/one.safetensors')\n"
        "plot.states_of_answer(trace).figure.savefig(sys.argv[1] + '/other.png')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    plot.states_of_answer(trace).figure.savefig(tmp_path / "here.png")
    assert (tmp_path / "other.png").read_bytes() == (tmp_path / "here.png").read_bytes()
