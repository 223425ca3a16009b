import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Stage 1: contrastive pre-training")

with app.setup:
    from pathlib import Path

    import marimo as mo
    from accelerate import PartialState

    from workbench.config import parse_config
    from workbench.figures import nearest_neighbours, training_app
    from workbench.figures.interactive import (
        entered_settings,
        errors_in_words,
        log_to_console,
        settings_fields,
    )
    from workbench.job import Job
    from workbench.neighbours import neighbours_before_and_after
    from workbench.recipes.presets import PRETRAIN_RECIPES
    from workbench.recipes.pretrain import PretrainConfig, pretrain
    from workbench.recipes.stages import whole_run
    from workbench.runs import Run


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # Stage 1: teaching a ternary model what belongs together

    Rounding a model's weights to $-1$, $0$ and $+1$ destroys most of what it knew (`convert.py` shows how much).
    Continued training brings it back. This stage uses plain *pairs* of texts that belong together: a question and
    its answer, a word and its definition, a command and its description. Nobody has to label anything.

    Give it a teacher, such as the floating-point original, and it recovers much faster: choose a recipe that has
    one, or enter `minilm` as the teacher of `minilm`.
    """)
    return


@app.cell
def _():
    log_to_console()
    config, run_now = parse_config(PretrainConfig, recipes=PRETRAIN_RECIPES)
    return config, run_now


@app.cell
def _(config):
    recipe = training_app.recipe_chooser(PRETRAIN_RECIPES, config)
    recipe
    return (recipe,)


@app.cell
def _(recipe):
    main = ("backbone", "teacher", "pairs", "out", "steps", "batch_size", "learning_rate", "overwrite")
    entries = settings_fields(recipe.value, main)
    entries
    return (entries,)


@app.cell
def _(config, entries, recipe, run_now):
    with errors_in_words():
        settings = config if run_now else entered_settings(recipe.value, entries)
    return (settings,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## How a weight that can only be $-1$, $0$ or $+1$ learns

    The model keeps a *latent* floating-point weight for each ternary one. Going forward, it computes with the
    rounded weight; going backward, the gradient passes the rounding as if it were not there:

    $$\tilde W = W + (Q_w(W) - W), \qquad \frac{\partial \tilde W}{\partial W} = 1,$$

    with the bracket held constant in the derivative.
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

    ## What will it cost?
    """)
    return


@app.cell
def _():
    ask = mo.ui.run_button(label="Estimate the cost")
    ask
    return (ask,)


@app.cell
def _(ask, settings):
    training_app.cost_page("pretrain", settings, ask.value)
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Train

    A run that was paused, here or anywhere, goes on exactly as if it had never stopped. While it trains: the share of
    zero weights should stay near a third and move slowly. The gradient norm is measured before it is cut to its
    limit; spikes that do not come down again mean that the learning rate is too high. The loss jumps from step to
    step because every batch comes from a single source of text, and some sources are harder than others.
    """)
    return


@app.cell
def _():
    job = Job(__file__)
    get_state, set_state = mo.state("new", allow_self_loops=True)  # a button draws its own cell anew
    return get_state, job, set_state


@app.cell
def _(get_state, job, set_state, settings):
    get_state()
    pressed, ticks = training_app.buttons(job, settings, set_state), training_app.pulse()
    training_app.control_row(pressed, ticks, job.standing(settings))
    return (ticks,)


@app.cell
def _(get_state, job, run_now, set_state, settings, ticks):
    ticks.value
    None if run_now else training_app.live_page(job, settings, get_state(), set_state)
    return


@app.cell
def _(run_now, settings):
    if run_now:
        with errors_in_words():
            training_app.follow_curves(whole_run(pretrain, settings))
    run = Run(Path(settings.out))
    return (run,)


@app.cell(hide_code=True)
def _():
    measure = training_app.layer_chooser()
    mo.md(f"""
    ## Layer by layer

    A weight that never flips has stopped learning; layers whose weights flip until the end have not settled. A token
    with one outlying activation wastes most of the 8 bits of all its others. Show {measure} of the run in `out`.
    """)
    return (measure,)


@app.cell
def _(get_state, measure, run, ticks):
    get_state(), ticks.value
    training_app.layer_page(run, measure.value)
    return


@app.cell(hide_code=True)
def _(run):
    root = mo.ui.text(str(run.path.parent))
    mo.md(f"""
    ## Against earlier runs

    Runs below the folder {root}
    """)
    return (root,)


@app.cell
def _(get_state, root, run):
    get_state()
    others = training_app.run_chooser(root.value, run)
    others
    return (others,)


@app.cell
def _(others):
    training_app.comparison_page(others.value)
    return


@app.cell(hide_code=True)
def _(get_state, run, run_now, settings):
    get_state()
    found = run_now or (run.path / "neighbours.json").is_file()  # by the process that trained, not by the app
    mo.stop(not run.finished or not found or not PartialState().is_main_process)
    _prose = mo.md("""
    ## Nearest neighbours, before and after

    Some queries of the training sources, and which texts each model finds nearest. The original is the model that
    training began with, in floating point.
    """)
    _use = mo.md(f"""
    ## Use it

    The run in `{settings.out}` has its settings, a record of every step, checkpoints, and the model. Stage 2 goes on
    from it: `python notebooks/distill.py --backbone {settings.out}`
    """)
    mo.vstack(
        [_prose, nearest_neighbours(*neighbours_before_and_after(settings)), _use, training_app.usage(run)]
    )
    return


if __name__ == "__main__":
    app.run()
