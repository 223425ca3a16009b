import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Stage 2: distillation for every output precision")

with app.setup:
    from pathlib import Path

    import marimo as mo
    from accelerate import PartialState

    from workbench.compare import read_run
    from workbench.config import parse_config
    from workbench.figures import retention_by_precision, score_table, storage_versus_accuracy, training_app
    from workbench.figures.interactive import (
        entered_settings,
        errors_in_words,
        log_to_console,
        plot,
        settings_fields,
    )
    from workbench.job import Job
    from workbench.recipes.presets import DISTILL_RECIPES
    from workbench.recipes.stages import StagesConfig, teach_and_distill
    from workbench.runs import Run
    from workbench.scores import score_run


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # Stage 2: learning from a teacher, for every size of vector at once

    Now the ternary model learns from *triplets*: a query, a text that answers it, and *hard negatives*, texts that
    look right and are not. Beside it stands a teacher, the same kind of model in floating point, fine-tuned on the
    same triplets (stage 0; it is trained first if none is given). The student imitates how the teacher judges, and
    at the same time learns to give vectors that survive being stored in few bits.
    """)
    return


@app.cell
def _():
    log_to_console()
    config, run_now = parse_config(StagesConfig, recipes=DISTILL_RECIPES)
    return config, run_now


@app.cell
def _(config):
    recipe = training_app.recipe_chooser(DISTILL_RECIPES, config)
    recipe
    return (recipe,)


@app.cell
def _(recipe):
    main = ("backbone", "teacher", "triplets", "out", "steps", "batch_size", "learning_rate", "overwrite")
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
    ## Three lessons in one loss

    **Right answers.** $L_{\mathrm{ctr}}$ is InfoNCE over the candidates $C_i$ of a query: all positives of the batch
    and all hard negatives.

    **The teacher's judgement.** Right or wrong is little to learn from; *how* similar each candidate is to the query
    is much more. Teacher $T$ and student $S$ each turn their similarities into probabilities, and the student's are
    pulled towards the teacher's:

    $$P_M(c \mid q_i) = \operatorname*{softmax}_{c \in C_i} \frac{s_M(q_i, c)}{\tau}, \qquad
    L_{\mathrm{score}} = \frac{1}{B} \sum_i \mathrm{KL}\big(P_T(\cdot \mid q_i)\,\|\,P_S(\cdot \mid q_i)\big)$$

    **The teacher's attention.** Inside one layer, at about 60 % of the depth, the states $A$ from which attention is
    computed (queries, keys, values) say how each token relates to each other token. These *relations* do not depend
    on the width of the model, and are imitated too:

    $$R = \mathrm{softmax}\!\left(\frac{A A^\top}{\sqrt{d_h}}\right), \qquad
    L_{\mathrm{attn}} = \operatorname{mean} \mathrm{KL}(R_T \,\|\, R_S)$$

    ## Vectors that survive storage

    A stored vector has a scale $a = \max_j |e_j|$ and a code of $b$ bits for each number. One bit keeps the sign;
    otherwise, with $m = 2^b - 1$ steps,

    $$z_j = \mathrm{clip}\big(\mathrm{round}\big(\tfrac{e_j/a + 1}{2}\, m\big), 0, m\big), \qquad
    \tilde e_j = \big(\tfrac{2 z_j}{m} - 1\big)\, a .$$

    In training, both losses over candidates are computed from vectors rounded to 1, 2, 4, 8 and 16 bits and averaged.
    So one model serves all sizes, and the size can be chosen afterwards:
    $L = \frac{1}{|R|} \sum_{b \in R} \big(L_{\mathrm{ctr}}^{(b)} + w_s L_{\mathrm{score}}^{(b)}\big) + w_r L_{\mathrm{attn}}$.

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
    training_app.cost_page("distill", settings, ask.value)
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Train

    A run that was paused, here or anywhere, goes on exactly as if it had never stopped. While it trains, watch the
    last plot: how heavily the relation loss weighs against the contrastive one. Far above 1, the student copies the
    teacher's attention and forgets what it is for; `relation_weight` and `relation_temperature` set it.
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
            training_app.follow_curves(teach_and_distill(settings))
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


@app.cell
def _(get_state, run, run_now, settings):
    get_state()
    scores = None
    if run_now and run.finished and settings.tasks and PartialState().is_main_process:
        with errors_in_words(), mo.status.spinner("Evaluating") as spinner:
            scores = score_run(settings, lambda line: spinner.update(subtitle=line))
    results = scores or read_run(run.path).results if run.exists else None
    return (results,)


@app.cell(hide_code=True)
def _(results):
    mo.stop(results is None)
    _prose = mo.md("""
    ## What is it worth?

    Tasks whose text was kept out of training, scored by mteb, the usual yardstick for embedders, every precision through
    bytes that were really packed, on both sides. *Before training* is the same model made ternary and left so.
    """)
    _figures = plot(storage_versus_accuracy(results)), plot(retention_by_precision(results))
    mo.vstack([_prose, *_figures, score_table(results)])
    return


@app.cell(hide_code=True)
def _(get_state, run):
    get_state()
    mo.stop(not run.finished)
    _prose = mo.md(f"""
    ## Use it

    `deploy.py` measures the model on this machine, encodes a file, searches it and exports it: `--model {run.path}`
    """)
    mo.vstack([_prose, training_app.usage(run)])
    return


if __name__ == "__main__":
    app.run()
