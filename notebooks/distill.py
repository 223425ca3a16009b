import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Stage 2: distillation for every output precision")

with app.setup:
    import logging
    from pathlib import Path

    import marimo as mo
    from accelerate import PartialState

    from workbench.catalog.models import load_embedder
    from workbench.config import parse_config
    from workbench.evaluation import evaluate, retention_table, write_results
    from workbench.figures import (
        retention_by_precision,
        score_table,
        storage_versus_accuracy,
        training_health,
    )
    from workbench.figures.interactive import (
        chosen_settings,
        errors_in_words,
        follow,
        log_to_console,
        settings_form,
        training_page,
    )
    from workbench.recipes.presets import DISTILL_RECIPES
    from workbench.recipes.stages import StagesConfig, teach_and_distill, untrained


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
    main = ("backbone", "teacher", "triplets", "out", "steps", "batch_size", "learning_rate", "overwrite")
    form = settings_form(config, main)
    form
    return (form,)


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
    """)
    return


@app.cell
def _(config, form, run_now):
    mo.stop(not run_now and form.value is None, mo.md("Press **Train** to start."))
    settings = chosen_settings(config, form)
    with errors_in_words():
        records = follow(teach_and_distill(settings), lambda so_far: mo.output.replace(training_page(so_far)))
    return records, settings


@app.cell(hide_code=True)
def _(records):
    _prose = mo.md("""
    ## Is the training healthy?

    Watch the last plot: how heavily the relation loss weighs against the contrastive one. Far above 1, the student
    copies the teacher's attention and forgets what it is for; `--relation-weight` and `--relation-temperature`
    set it.
    """)
    mo.vstack([_prose, training_health(records)])
    return


@app.cell
def _(records, settings):
    mo.stop(not records or not settings.tasks or not PartialState().is_main_process, mo.md("No evaluation."))
    with errors_in_words(), mo.status.spinner("Evaluating") as spinner:

        def progress(line):
            logging.getLogger("bitembed").info(line)
            spinner.update(subtitle=line)

        results = evaluate(
            load_embedder(settings.out),
            settings.tasks,
            teacher=load_embedder(settings.teacher_name),
            cap=settings.cap,
            baselines={"untrained": untrained(settings)},
            progress=progress,
            name=settings.out,
            teacher_name=settings.teacher_name,
        )
    write_results(Path(settings.out) / "results.json", results)
    logging.getLogger("bitembed").info(retention_table(results))
    return (results,)


@app.cell(hide_code=True)
def _(results):
    _prose = mo.md("""
    ## What is it worth?

    Tasks whose text was kept out of training, scored by mteb, the usual yardstick for embedders. Every precision is scored
    through bytes that were really packed, on both sides. *Before training* is the same model made ternary and
    left so.
    """)
    mo.vstack(
        [_prose, storage_versus_accuracy(results), retention_by_precision(results), score_table(results)]
    )
    return


if __name__ == "__main__":
    app.run()
