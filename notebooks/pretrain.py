import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Stage 1: contrastive pre-training")

with app.setup:
    import marimo as mo
    import numpy as np

    from workbench.catalog.examples import load_examples
    from workbench.catalog.models import load_embedder
    from workbench.config import parse_config
    from workbench.figures import find_neighbours, nearest_neighbours, training_health
    from workbench.figures.interactive import (
        chosen_settings,
        errors_in_words,
        follow,
        log_to_console,
        settings_form,
        training_page,
    )
    from workbench.recipes.presets import PRETRAIN_RECIPES
    from workbench.recipes.pretrain import PretrainConfig, pretrain
    from workbench.recipes.stages import origin_of, whole_run


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # Stage 1: teaching a ternary model what belongs together

    Rounding a model's weights to $-1$, $0$ and $+1$ destroys most of what it knew (`convert.py` shows how much).
    Continued training brings it back. This stage uses plain *pairs* of texts that belong together: a question and
    its answer, a word and its definition, a command and its description. Nobody has to label anything.

    Give it a teacher, such as the floating-point original, and it recovers much faster: try `--teacher minilm`.
    """)
    return


@app.cell
def _():
    log_to_console()
    config, run_now = parse_config(PretrainConfig, recipes=PRETRAIN_RECIPES)
    return config, run_now


@app.cell
def _(config):
    main = ("backbone", "teacher", "pairs", "out", "steps", "batch_size", "learning_rate", "overwrite")
    form = settings_form(config, main)
    form
    return (form,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## How a weight that can only be $-1$, $0$ or $+1$ learns

    The model keeps a *latent* floating-point weight for each ternary one. Going forward, it computes with the
    rounded weight; going backward, the gradient passes the rounding as if it were not there:

    $$\tilde W = W + (Q_w(W) - W)\ \text{with the bracket held constant}
    \qquad\Rightarrow\qquad \frac{\partial \tilde W}{\partial W} = 1$$

    This is the *straight-through estimator*. A latent weight drifts a little at every step, and now and then crosses
    a threshold; then the ternary weight flips. Afterwards the latent weights are thrown away.

    ## What it learns: InfoNCE

    In a batch of pairs, a query $q_i$ should be closer to its own text $d_i$ than to the texts of all others. With
    cosine similarity $s$ and a temperature $\tau$ that makes differences count,

    $$L_{\mathrm{ctr}} = -\frac{1}{B}\sum_i \log
    \frac{\exp(s(q_i, d_i)/\tau)}{\sum_j \exp(s(q_i, d_j)/\tau)}.$$

    The other texts of the batch serve as negatives for free, so larger batches make a harder and better lesson.
    With a teacher, the student also follows the teacher's vector for each text, $1 - \cos(e_S, e_T)$, and the
    teacher's view of how similar each query is to each text.
    """)
    return


@app.cell
def _(config, form, run_now):
    mo.stop(not run_now and form.value is None, mo.md("Press **Train** to start."))
    settings = chosen_settings(config, form)
    with errors_in_words():
        records = follow(
            whole_run(pretrain, settings), lambda so_far: mo.output.replace(training_page(so_far))
        )
    return records, settings


@app.cell(hide_code=True)
def _(records):
    _tenth = max(1, len(records) // 10)
    _first, _last = (sum(r["loss"] for r in part) / _tenth for part in (records[:_tenth], records[-_tenth:]))
    mo.md(f"""
    The loss was {_first:.3f} in the first tenth of the steps and {_last:.3f} in the last. It jumps from step to step
    because every batch comes from a single source of text, and some sources are harder than others.

    ## Is the training healthy?

    The share of zero weights should stay near a third and move slowly. The gradient norm is measured before it is
    cut to its limit; spikes that do not come down again mean that the learning rate is too high.
    """)
    return


@app.cell
def _(records):
    training_health(records)
    return


@app.cell
def _(records, settings):
    mo.stop(not records)
    sources = load_examples(settings.pairs, "pairs", limit_per_source=20, seed=settings.seed + 1)
    samples = [source.sample(20, np.random.default_rng(settings.seed)) for source in sources]
    queries = [examples[0].query for examples in samples][:6]
    texts = list(dict.fromkeys(example.positive for examples in samples for example in examples))
    original, trained = load_embedder(origin_of(settings.backbone)), load_embedder(settings.out)
    neighbours = nearest_neighbours(
        find_neighbours(original, queries, texts), find_neighbours(trained, queries, texts)
    )
    return (neighbours,)


@app.cell(hide_code=True)
def _(neighbours):
    _prose = mo.md("""
    ## Nearest neighbours, before and after

    Some queries of the training sources, and which texts each model finds nearest. The original is the model that
    training began with, in floating point.
    """)
    mo.vstack([_prose, neighbours])
    return


@app.cell(hide_code=True)
def _(settings):
    mo.md(f"""
    ## Next

    The run is in `{settings.out}`: settings, one record per step, checkpoints, and the model. Stage 2 goes on from it:

    ```
    python notebooks/distill.py --backbone {settings.out}
    ```
    """)
    return


if __name__ == "__main__":
    app.run()
