import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Convert an embedder to ternary weights")

with app.setup:
    import marimo as mo

    from bitembed_core.conversion import bit_linears
    from workbench.blocks import block_steps
    from workbench.config import parse_config
    from workbench.figures import (
        activation_ranges,
        agreement_by_text,
        block_diagram,
        bytes_bars,
        floating_point_table,
        projection_summary,
        projection_table,
        similarities_before_and_after,
        weight_histogram,
        zero_share_by_layer,
    )
    from workbench.figures.interactive import (
        chosen_settings,
        errors_in_words,
        log_to_console,
        plot,
        settings_form,
    )
    from workbench.footprint import bytes_by_part
    from workbench.projections import by_kind
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
    names = by_kind(projections)
    kind = mo.ui.dropdown(list(names), value=list(names)[-1], label="Projection")
    layer = mo.ui.slider(steps=sorted(names[list(names)[-1]]), label="Layer", show_value=True)
    mo.hstack([kind, layer], justify="start", wrap=True)
    return kind, layer, names, projections


@app.cell
def _(kind, layer, names, projections):
    chosen = projections[names[kind.value][layer.value]]
    plot(weight_histogram(chosen.weight, float(chosen.ternary()[1])))
    return (chosen,)


@app.cell
def _(converted):
    _summary = projection_summary(converted.embedder.model)
    _numbers = mo.accordion({"The numbers: shapes, scales and gains": projection_table(_summary)})
    mo.vstack([plot(zero_share_by_layer(_summary)), _numbers])
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Where norms go in

    Before a ternary matrix the conversion can put a *norm*. It divides a token's vector by its root mean square and
    multiplies by a learned gain $g$:

    $$\mathrm{norm}(x) = g \cdot \frac{x}{\sqrt{\mathrm{mean}(x^2) + \epsilon}}$$

    The paper's SubLN has two of them in a block, before the projections that write a block's result back
    (`output`); the published checkpoints have one in every projection (`all`). Choose, and see the block of this
    model, as its modules are:
    """)
    return


@app.cell
def _(converted):
    sites = mo.ui.radio(["all", "output", "none"], value=converted.report.sites, label="Norms", inline=True)
    sites
    return (sites,)


@app.cell
def _(converted, sites):
    with errors_in_words():
        _diagram = block_diagram(block_steps(converted.embedder.model), sites.value)
    _diagram
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## What the norms do to the numbers that are rounded

    The input of a matrix is rounded to 8 bits: each token's vector in steps of $\max|x|/127$. Tokens of very
    different size make training unstable; after a norm every token has the size $g$ (upper panel: the box becomes
    a line). A few *outliers* far above the rest make the steps coarse for all others: at an outlier ratio $r$ the
    rounding error is about $r / 440$ of the token. A norm with equal gains cannot change that ratio; gains that
    differ by channel, which training may find, can. Where the lower panel shows a smaller ratio, the ternary
    layers before have flattened their outliers.
    """)
    return


@app.cell
def _(chosen, converted, kind, names):
    _before, _after = (
        {at: converted.inputs[when][name] for at, name in names[kind.value].items()}
        for when in ("before", "after")
    )
    plot(activation_ranges(_before, _after, kind.value, has_norm=chosen.norm is not None))
    return


@app.cell(hide_code=True)
def _(converted):
    _prose = mo.md(r"""
    ## What calibrating the gains does

    A fresh norm with $g = 1$ changes the size of what it lets through, and the pretrained model never learned to
    live with that: it is destroyed before a single weight is rounded. If instead each gain starts as the mean root
    mean square that its input really has on some sample text, the norm at first changes little. That is
    *calibration*. Below, the converted model is compared with the original on texts that calibration has not seen:
    with norms only, gains at one and calibrated, then with ternary weights too.
    """)
    _figure = agreement_by_text({name: a.cosines for name, a in converted.agreement.items()})
    mo.vstack([_prose, plot(_figure)])
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## What stays alike, and why training is needed

    A model may turn all its vectors and still be a good one, as long as texts that were alike stay alike. Here is
    every pair of those texts: how similar the original finds them, and how similar the changed model does.
    """)
    return


@app.cell
def _(converted):
    _figure = similarities_before_and_after({n: a.similarities for n, a in converted.agreement.items()})
    _ranks = ", ".join(f"{name} **{a.rank_correlation:.2f}**" for name, a in converted.agreement.items())
    _prose = f"""
    Their rank correlation: {_ranks}. At 1 every search would find the same texts in the same order. Rounding
    chose each weight's value without regard to the others; training lets them move together, until the rounded
    model says what the original said.
    """
    mo.vstack([plot(_figure), mo.md(_prose)])
    return


@app.cell(hide_code=True)
def _(converted):
    _prose = mo.md(r"""
    ## Bytes before and after

    Only the matrices inside the transformer blocks become ternary: two bits a weight. The table of token embeddings
    is looked up, not multiplied by, so it stays in floating point, or is stored in 8 or 4 bits with a scale for each
    piece of a row. In a small model with a large vocabulary it is most of what remains.
    """)
    _model = converted.embedder.model
    _floating = mo.accordion(
        {"What stays in floating point, and why": floating_point_table(converted.report, _model)}
    )
    mo.vstack([_prose, plot(bytes_bars(bytes_by_part(_model))), _floating])
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
