import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Convert an embedder to ternary weights")

with app.setup:
    import marimo as mo

    from bitembed_core.conversion import bit_linears
    from workbench.config import parse_config
    from workbench.figures import (
        agreement_by_text,
        floating_point_table,
        projection_summary,
        projection_table,
        weight_histogram,
    )
    from workbench.figures.interactive import (
        chosen_settings,
        errors_in_words,
        log_to_console,
        settings_form,
    )
    from workbench.recipes.convert import ConvertConfig, convert


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # From a pretrained embedder to a ternary one

    A text embedder turns a text into a vector, so that texts with similar meanings get vectors with similar
    directions. Nearly all of its work is multiplying by large matrices of weights. In a *ternary* model every one
    of those weights is $-1$, $0$ or $+1$: multiplying becomes adding and subtracting, and a weight takes two bits
    instead of sixteen or thirty-two.

    This notebook converts a model, without training it, and measures how much of it is left. The answer is: not
    much. That is the honest starting point, and winning it back is what `pretrain.py` and `distill.py` do.
    """)
    return


@app.cell
def _():
    log_to_console()
    config, run_now = parse_config(ConvertConfig)
    return config, run_now


@app.cell
def _(config):
    form = settings_form(config, main=("backbone", "out", "sites", "calibration_texts"), button="Convert")
    form
    return (form,)


@app.cell
def _(config, form, run_now):
    mo.stop(not run_now and form.value is None, mo.md("Press **Convert**; it takes about a minute."))
    with errors_in_words(), mo.status.spinner("Converting and comparing"):
        converted = convert(chosen_settings(config, form))
    return (converted,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Ternary weights

    A weight matrix $W$ has a single scale, the mean size of its entries,
    $\Delta = \frac{1}{n}\sum |W_{ij}|$. Each entry is divided by it, rounded, and kept between $-1$ and $1$:

    $$Q_w(W) = \Delta \cdot \mathrm{clip}\!\left(\mathrm{round}\!\left(\frac{W}{\Delta + \epsilon}\right), -1, 1\right)$$

    So everything within $\pm\Delta/2$ becomes zero, and the rest becomes $\pm\Delta$. Bell-shaped weights lose
    about a third of their entries to zero. What goes into the matrix is rounded as well, to 8 bits with one scale
    per token; that costs next to nothing.
    """)
    return


@app.cell
def _(converted):
    projections = dict(bit_linears(converted.embedder.model))
    chosen = mo.ui.dropdown(
        list(projections), value=next(iter(projections)), label="Weight matrix", searchable=True
    )
    chosen
    return chosen, projections


@app.cell
def _(chosen, projections):
    weight_histogram(projections[chosen.value].weight, float(projections[chosen.value].ternary()[1]))
    return


@app.cell
def _(converted):
    projection_table(projection_summary(converted.embedder.model))
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Why norms go in, and what calibrating their gains does

    Rounding to 8 bits needs inputs of a steady size, so a *norm* is put before each ternary matrix. It divides a
    token's vector by its root mean square and multiplies by a learned gain $g$:

    $$\mathrm{norm}(x) = g \cdot \frac{x}{\sqrt{\mathrm{mean}(x^2) + \epsilon}}$$

    `sites = all` puts one into every projection, as the published checkpoints have it; `sites = output` only before
    the two projections that write a block's result back.

    A fresh norm with $g = 1$ changes the size of what it lets through, and the pretrained model never learned to
    live with that: it is destroyed before a single weight is rounded. If instead each gain starts as the mean root
    mean square that its input really has on some sample text, the norm at first changes little. That is
    *calibration*. Below, the converted model is compared with the original on texts that calibration has not seen:
    with norms only, gains at one and calibrated, then with ternary weights too.
    """)
    return


@app.cell
def _(converted):
    agreement_by_text({name: agreement.cosines for name, agreement in converted.agreement.items()})
    return


@app.cell(hide_code=True)
def _(converted):
    mo.md(
        "A model may turn all its vectors and still be a good one, as long as texts that were alike stay alike. The "
        "rank correlation between the similarities of all pairs, before and after, tells: "
        + ", ".join(f"{name} **{a.rank_correlation:.2f}**" for name, a in converted.agreement.items())
        + "."
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## What stays in floating point

    Only the matrices inside the transformer blocks become ternary. The table of token embeddings is looked up, not
    multiplied by, and norms and biases are tiny, so these stay as they are. In a small model with a large
    vocabulary the token table is most of what remains.
    """)
    return


@app.cell
def _(converted):
    floating_point_table(converted.report, converted.embedder.model)
    return


@app.cell(hide_code=True)
def _(converted):
    mo.md(f"""
    ## Next

    The converted model is in `{converted.folder}`, with its weights in full precision so that training can go on
    from there. Stage 1 starts from it, or from any pretrained model directly:

    ```
    python notebooks/pretrain.py --backbone {converted.folder.parent} --steps 300
    ```
    """)
    return


if __name__ == "__main__":
    app.run()
