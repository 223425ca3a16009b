import marimo

__generated_with = "0.25.2"
app = marimo.App(width="full", app_title="Attention relations of teacher and student")

with app.setup:
    from dataclasses import replace

    import marimo as mo

    from bitembed_core.losses import relation_layer
    from workbench.config import parse_config
    from workbench.figures.interactive import (
        chosen_settings,
        errors_in_words,
        log_to_console,
        plot,
        settings_form,
        side_by_side,
    )
    from workbench.figures.relations import relation_row
    from workbench.relations import (
        BEFORE,
        PHIS,
        TEACHER,
        RelationsConfig,
        average,
        depth_of,
        load_models,
        most_changed_pair,
        read,
        relate,
        relation_heads,
        rows_of,
        texts_of,
    )
    from workbench.relations_report import (
        head_figures,
        in_words,
        layer_figure,
        map_figures,
        save,
        token_figure,
    )


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # What the student learns from inside its teacher

    A transformer reads a text by letting each token look at the others. In every layer each token has a *query*
    (what it looks for), a *key* (what it offers) and a *value* (what it hands over). Two models of different widths
    cannot be compared number by number, but this can be: **how alike are the queries of two tokens, their keys,
    their values?** For the states $A$ of one *relation head*, each of length 1,

    $$R = \mathrm{softmax}\!\left(\frac{A A^\top}{t}\right)$$

    is a table of probabilities: row $i$ says how strongly token $i$ is related to each token. Distillation asks the
    ternary student for the teacher's table, at one layer:

    $$L_{\mathrm{attn}} = \operatorname{mean}\; \mathrm{KL}(R_{\mathrm{teacher}} \,\|\, R_{\mathrm{student}})$$

    Here you see those tables, where the student's differ, and what distillation mended. Without `--student` you see
    the student as conversion leaves it.
    """)
    return


@app.cell
def _():
    log_to_console()
    config, run_now = parse_config(RelationsConfig)
    return config, run_now


@app.cell
def _(config):
    form = settings_form(config, main=("teacher", "student", "texts", "out"), button="Compare")
    form
    return (form,)


@app.cell
def _(config, form, run_now):
    mo.stop(not run_now and form.value is None, mo.md("Press **Compare**; it takes a few seconds."))
    settings = chosen_settings(config, form)
    with errors_in_words(), mo.status.spinner("Loading the models"):
        models = load_models(settings)
        states = {text: read(models, text, settings.max_length) for text in texts_of(settings)}
    return models, settings, states


@app.cell
def _(settings, states):
    temperatures = {"0.1": 0.1, "1 (BitDistill)": 1.0, "square root of the head width (Eq 8)": None}
    given = next((name for name, t in temperatures.items() if t == settings.temperature), None)
    if given is None:
        given = str(settings.temperature)
        temperatures[given] = settings.temperature
    temperature = mo.ui.dropdown(temperatures, value=given, label="Temperature")
    text, choose_text = mo.state(next(iter(states)))  # the one that was chosen or typed last
    sample = mo.ui.dropdown(list(states), value=text(), full_width=True, on_change=choose_text)
    own_text = mo.ui.text(
        placeholder="Or type your own and press Enter",
        full_width=True,
        on_change=lambda typed: choose_text(typed if typed.strip() else sample.value),
    )
    return own_text, sample, temperature, text


@app.cell
def _(models, settings, states, text):
    with errors_in_words():
        shown_states = states.get(text()) or read(models, text(), settings.max_length)
    pair, choose_pair = mo.state(None)  # of tokens that was clicked; another text has none yet
    return choose_pair, pair, shown_states


@app.cell
def _(models, settings):
    heads, depth = relation_heads(settings, models), depth_of(models[BEFORE])
    names = {str(n): n for n in range(depth)}
    names[f"{relation_layer(depth)} (the paper's choice)"] = names.pop(str(relation_layer(depth)))
    names = dict(sorted(names.items(), key=lambda item: item[1]))
    layer = mo.ui.dropdown(names, value=list(names)[relation_layer(depth)], label="Layer")
    head = mo.ui.dropdown({str(n): n for n in range(heads)}, value="0", label="Head")
    phi = mo.ui.radio({f"{name}-{name}": name for name in PHIS}, value="Q-Q", inline=True)
    return head, heads, layer, phi


@app.cell
def _(heads, shown_states, temperature):
    shown = relate(shown_states, heads, temperature.value)
    return (shown,)


@app.cell
def _(heads, states, temperature):
    mean = average(relate(one, heads, temperature.value) for one in states.values())
    return (mean,)


@app.cell(hide_code=True)
def _(head, layer, own_text, phi, sample, temperature):
    _prose = mo.md("""
    ## Tables of relations

    Dark is strongly related; a token is always most related to itself. **Click a cell** to see the row it is in:
    to which tokens the teacher relates that token, and to which the student does.
    """)
    mo.vstack(
        [
            _prose,
            mo.hstack([phi, layer, head, temperature], justify="start", wrap=True),
            side_by_side([sample, own_text]),
        ]
    )
    return


@app.cell
def _(choose_pair, head, layer, phi, shown):
    place = (phi.value, layer.value, min(head.value, shown.maps[TEACHER][phi.value].shape[1] - 1))

    def clicked(points):
        if points:
            choose_pair((int(points[-1]["y"]), int(points[-1]["x"])))

    maps = [plot(figure, on_click=clicked) for figure in map_figures(shown, *place)]
    _note = f"The text goes on: `--max-length` reads more than its first {len(shown.tokens)} tokens."
    mo.vstack([side_by_side(maps), mo.md(_note if shown.cut else "")])
    return maps, place


@app.cell
def _(pair, place, shown):
    _row, _column = pair() or most_changed_pair(shown, *place)
    plot(relation_row(shown.tokens, rows_of(shown, *place, _row), _row, _column, place[0]))
    return


@app.cell
def _(place, shown):
    plot(token_figure(shown, *place))
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## Which layer to distil

    Rounding weights changes a little in every layer, and later layers compute with what earlier ones changed. So
    the divergence of a student that was not distilled usually grows with depth. One layer is distilled, and the
    gradient reaches it and all layers before it: early in the model it would teach few layers, at the very end it
    would also tie down the layers that form the embedding. The paper takes one at about 60 % of the depth.
    """)
    return


@app.cell
def _(mean):
    mo.vstack([plot(layer_figure(mean)), mo.md(in_words(mean))])
    return


@app.cell
def _(mean, phi):
    side_by_side([plot(figure) for figure in head_figures(mean, phi.value)])
    return


@app.cell(hide_code=True)
def _():
    save_now = mo.ui.run_button(label="Save report.html and relations.json")
    mo.vstack(
        [
            mo.md("""
    ## Next

    A divergence tells where a student differs, not what that costs. To know, train it with one layer or another, and
    compare scores:

    ```
    python -m workbench.ablation --variants relation-layer-1,relation-layer-3,relation-layer-5
    python notebooks/distill.py --relation-layer 3 --relation-temperature 0.1
    ```
    """),
            save_now,
        ]
    )
    return (save_now,)


@app.cell
def _(mean, run_now, save_now, settings, shown, temperature):
    _asked_for = run_now and temperature.value == settings.temperature
    mo.stop(not (_asked_for or save_now.value))
    folder = save(replace(settings, temperature=temperature.value), shown, mean)
    mo.md(f"Saved in `{folder}`.")
    return


if __name__ == "__main__":
    app.run()
