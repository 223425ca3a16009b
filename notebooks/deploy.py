import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Deploy an embedder")

with app.setup:
    from dataclasses import replace

    import marimo as mo

    from workbench import deploy_commands as as_command
    from workbench.config import parse_config
    from workbench.deploy import (
        DeployConfig,
        encode,
        export_model,
        export_to_engine,
        layout_of,
        load_and_measure,
        search,
        write_report,
    )
    from workbench.figures.deployment import answer_card, format_table, measurement_table, speed_by_length
    from workbench.figures.interactive import (
        chosen_settings,
        code_block,
        errors_in_words,
        log_to_console,
        plot,
        settings_form,
    )


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # Put an embedder to use

    Load a model, see how fast it is on this machine, store the vectors of your texts in few bits, search them, and
    take the result elsewhere. Under each step stands the command that does the same without this page.
    """)
    return


@app.cell
def _():
    log_to_console()
    config, run_now = parse_config(DeployConfig)
    return config, run_now


@app.cell
def _():
    history, set_history = mo.state(())
    return history, set_history


@app.cell(hide_code=True)
def _(config):
    _prose = mo.md(r"""
    ## Load and measure

    A trained run's folder, an exported model, a name of the catalog. The *kernel* computes the ternary layers:
    `native` reads weights at two bits and multiplies in integers, `int8` does the same on PyTorch, `reference` is the
    plain floating-point product to compare with. A model in floating point has none of these. What you measure
    stays in the plot, so measure twice to compare.
    """)
    model_form = settings_form(
        config,
        main=("model", "kernel"),
        folded=("device", "max_length", "batch_size", "lengths", "repeats"),
        button="Load and measure",
    )
    mo.vstack([_prose, model_form])
    return (model_form,)


@app.cell
def _(config, model_form, run_now, set_history):
    mo.stop(not run_now and model_form.value is None, mo.md("Press **Load and measure**."))
    loaded = chosen_settings(config, model_form)
    with errors_in_words(), mo.status.spinner(f"Loading {loaded.model} and measuring"):
        embedder, measured = load_and_measure(loaded)
    set_history(lambda so_far: (*so_far, measured))
    return embedder, loaded, measured


@app.cell
def _(history, loaded, measured):
    _shown = history() or (measured,)
    mo.vstack(
        [
            plot(speed_by_length(_shown)),
            measurement_table(_shown),
            code_block(as_command.bench_command(loaded)),
        ]
    )
    return


@app.cell(hide_code=True)
def _(config, embedder):
    _prose = mo.md(f"""
    ## Encode

    Every text becomes {embedder.dimension} numbers. `int8` takes a quarter of `float32` and loses next to nothing;
    the *fitted* formats keep more than others of the same size. The texts come from your file, or from a real collection of the catalog.
    """)
    text_form = settings_form(config, main=("input", "precision", "out"), folded=(), button="Encode")
    mo.vstack([_prose, text_form])
    return (text_form,)


@app.cell
def _(embedder, loaded, run_now, text_form):
    mo.stop(not run_now and text_form.value is None, mo.md("Press **Encode**."))
    encoded = chosen_settings(loaded, text_form)
    with errors_in_words(), mo.status.spinner(f"Encoding {encoded.input}"):
        index = encode(embedder, encoded)
    _sizes = format_table(embedder.dimension, len(index), encoded.precision)
    mo.vstack(
        [
            mo.md(f"**{len(index):,} texts** in `{encoded.index_path}`, and their words beside them."),
            code_block(as_command.encode_command(encoded)),
            mo.accordion({"What they would take in every format": _sizes}),
        ]
    )
    return encoded, index


@app.cell(hide_code=True)
def _(config):
    query = mo.ui.text(config.query, label="Query", full_width=True)
    top = mo.ui.slider(1, max(20, config.top), value=config.top, label="Hits", show_value=True)
    mo.vstack(
        [mo.md("## Search\n\nThe query is compared with every stored vector, as it is stored."), query, top]
    )
    return query, top


@app.cell
def _(embedder, encoded, index, query, top):
    asked = replace(encoded, query=query.value, top=top.value)
    with errors_in_words():
        answer = search(embedder, index, asked.query, asked.top)
    mo.vstack([answer_card(answer), code_block(as_command.search_command(asked))])
    return answer, asked


@app.cell(hide_code=True)
def _(config, index):
    _prose = mo.md("""
    ## Export

    `packed` is what to run: two bits a weight, and the embedding table in 16, 8 or 4 bits. `release` has the published
    tensor names, `gguf` is one file for other runtimes, `latent` is for training on. An index can also leave as the
    files of a search engine.
    """)
    model_export_form = settings_form(
        config, main=("layout", "token_table"), folded=(), button="Export the model"
    )
    engine_form = settings_form(config, main=("engine",), folded=(), button="Export the index")
    mo.vstack([_prose, model_export_form, engine_form])
    return engine_form, model_export_form


@app.cell
def _(answer, asked, embedder, index, measured, model_export_form, run_now):
    mo.stop(not run_now and model_export_form.value is None)
    _exported = chosen_settings(asked, model_export_form)
    with errors_in_words(), mo.status.spinner("Exporting"):
        exported = export_model(embedder, _exported)
    write_report(_exported, measured, index, answer, exported)
    mo.stop(exported is None)
    mo.vstack(
        [
            mo.md(f"`{exported['path']}`: weights of {exported['weights'] / 1e6:.1f} MB. Measure it above."),
            code_block(as_command.export_command(_exported, layout_of(embedder, _exported))),
        ]
    )
    return (exported,)


@app.cell
def _(asked, engine_form, index, run_now):
    mo.stop(not run_now and engine_form.value is None)
    _exported = chosen_settings(asked, engine_form)
    with errors_in_words():
        engine_export = export_to_engine(index, _exported)
    mo.stop(engine_export is None)
    code_block(as_command.engine_command(_exported))
    return (engine_export,)


@app.cell(hide_code=True)
def _(asked):
    mo.vstack([mo.md("## In Python"), code_block(as_command.usage(asked), "python")])
    return


if __name__ == "__main__":
    app.run()
