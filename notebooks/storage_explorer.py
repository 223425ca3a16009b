import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Storage explorer: bits, dimensions, scoring, rescoring")

with app.setup:
    import marimo as mo

    from workbench.config import parse_config
    from workbench.explorer.corpus import ExplorerConfig
    from workbench.explorer.formats import MOST_OVERSAMPLING, RESCORERS, Setting, format_names
    from workbench.explorer.live import open_live
    from workbench.explorer.report import PLANNED, write_exploration
    from workbench.explorer.retention import find_results
    from workbench.figures.interactive import (
        chosen_settings,
        errors_in_words,
        log_to_console,
        plot,
        settings_form,
    )
    from workbench.figures.storage_explorer import (
        PLAN_MEASURES,
        cheapest_in_words,
        plan_bars,
        plan_table,
        recall_against_bytes,
        retention_against_bytes,
    )
    from workbench.figures.tables import neighbours_side_by_side
    from workbench.search.planner import Prices, measure_rates, plan


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # How small can a vector be?

    An embedder turns a text into some hundred numbers. In `float32`, a million vectors of 384 numbers take 1.5 GB of
    memory, and a search reads all of it for every query. The same vectors can be stored with fewer **bits** per number,
    or with fewer **dimensions**; the query may be stored the same way (*symmetric*) or stay as it is (*float queries*);
    and what a small code finds can be **rescored** with a larger one. Each choice costs some accuracy. How much, for
    which task, and what it saves in money is what this page shows.
    """)
    return


@app.cell
def _():
    log_to_console()
    config, run_now = parse_config(ExplorerConfig)
    return config, run_now


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## What is kept

    Scores of real tasks, from results files. A point is one way to store vectors; the further to the left, the smaller,
    and lines join the ways that nothing smaller equals.
    `int2-fitted` and the like take as many bytes as `int2`, with codes fitted to each vector. Compared with the
    *teacher*, a point also pays for making the model ternary; compared with the model's own *float32*, for storage alone.
    """)
    return


@app.cell
def _(config):
    with errors_in_words():
        files = find_results(config.results)
    with_teacher = [name for name, rows in files.items() if any(row.teacher for row in rows)]
    chosen_files = mo.ui.multiselect(list(files), value=with_teacher or list(files), label="Results")
    base = mo.ui.radio(
        {"the teacher": "teacher", "own float32": "float32"}, "the teacher", label="100 % is", inline=True
    )
    mo.vstack([chosen_files, base])
    return base, chosen_files, files


@app.cell
def _(base, chosen_files, files):
    scores = [row for name in chosen_files.value for row in files[name]]
    plot(retention_against_bytes(scores, base.value))
    return (scores,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## On a corpus of your own

    Texts are encoded once. Then every format is searched for each query's ten nearest neighbours, and compared with what
    an exact search over `float32` finds. That share, *recall@10*, needs no judgements: it says how much a search notices.
    """)
    return


@app.cell
def _(config):
    form = settings_form(config, main=("model", "corpus", "documents", "queries"), button="Encode")
    form
    return (form,)


@app.cell
def _(config, form, run_now):
    mo.stop(not run_now and form.value is None, mo.md("Press **Encode**; it takes about half a minute."))
    with errors_in_words(), mo.status.spinner("Encoding and searching") as spinner:
        live = open_live(chosen_settings(config, form), lambda line: spinner.update(subtitle=line))
    return (live,)


@app.cell
def _(live):
    scoring = mo.ui.radio(
        {"float queries": True, "symmetric": False}, "float queries", label="Scoring", inline=True
    )
    rescore = mo.ui.dropdown(
        {"nothing": None, **{name: name for name in RESCORERS}}, "nothing", label="Rescore with"
    )
    oversampling = mo.ui.slider(
        1, MOST_OVERSAMPLING, value=4, label="Candidates per neighbour", show_value=True
    )
    wanted = mo.ui.slider(50, 100, value=90, label="Recall wanted, %", show_value=True)
    shown = mo.ui.multiselect(live.precisions, value=live.precisions, label="Formats")
    mo.vstack([scoring, mo.hstack([rescore, oversampling], wrap=True, justify="start"), wanted, shown])
    return oversampling, rescore, scoring, shown, wanted


@app.cell
def _(live, oversampling, rescore, scoring, shown, wanted):
    like = Setting("float32", scoring.value, rescore.value, oversampling.value)
    recalls = live.recalls(shown.value, like)
    share = wanted.value / 100
    _figure = recall_against_bytes(recalls, live.unrescored(recalls), share, live.formats.top)
    mo.vstack([plot(_figure), mo.md(cheapest_in_words(recalls, share))])
    return (like,)


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## What a query returns

    The same query, searched in each format with the scoring and rescoring chosen above. Under a list stands what
    `float32` finds and this format does not.
    """)
    return


@app.cell
def _(live):
    query = mo.ui.text(live.corpus.queries[0], label="Query", full_width=True)
    compared = mo.ui.multiselect(
        live.precisions, value=["int8", "int2-fitted", "binary-fitted"], label="Formats", max_selections=5
    )
    mo.vstack([query, compared])
    return compared, query


@app.cell
def _(compared, like, live, query):
    with errors_in_words():
        _columns = live.neighbours(query.value, compared.value, like)
    neighbours_side_by_side(_columns, "float32", name_lost=True, characters=80)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## A plan

    What an index of your size needs: memory for the codes that are searched, disk for them and for wider codes to
    rescore with, memory bandwidth for the queries, time, and money at your prices. Times are estimates from rates that
    this machine was just measured at.
    """)
    return


@app.cell
def _(config):
    _counts = sorted({config.vectors, *PLANNED})
    vectors = mo.ui.dropdown(
        {f"{count:,}": count for count in _counts}, f"{config.vectors:,}", label="Vectors"
    )
    dimension = mo.ui.number(1, 8192, value=384, label="Dimensions")
    replicas = mo.ui.number(1, 100, value=1, label="Replicas")
    rate = mo.ui.number(0.1, 100_000, value=10, label="Queries per second")
    beside = mo.ui.dropdown(
        {"nothing": None, **{name: name for name in RESCORERS}}, "nothing", label="On disk, to rescore with"
    )
    memory_price = mo.ui.number(
        0, 1000, value=config.memory_price, step=0.01, label="Price of a GB of memory, per month"
    )
    disk_price = mo.ui.number(
        0, 1000, value=config.disk_price, step=0.01, label="Price of a GB of disk, per month"
    )
    measure = mo.ui.dropdown(list(PLAN_MEASURES), next(iter(PLAN_MEASURES)), label="Show")
    mo.vstack(
        [
            vectors,
            mo.hstack([dimension, replicas, rate, beside], wrap=True, justify="start"),
            mo.hstack([memory_price, disk_price], wrap=True, justify="start"),
            measure,
        ]
    )
    return beside, dimension, disk_price, measure, memory_price, rate, replicas, vectors


@app.cell
def _():
    rates = measure_rates()
    return (rates,)


@app.cell
def _(beside, dimension, disk_price, measure, memory_price, rate, rates, replicas, vectors):
    _names = ("float32", *format_names(dimension.value, shares=(1, 2)))
    plans = plan(vectors.value, dimension.value, rates, replicas.value, _names, rescore=beside.value)
    _prices = Prices(memory_price.value, disk_price.value)
    mo.vstack([plot(plan_bars(plans, measure.value, _prices)), plan_table(plans, _prices, rate.value)])
    return


@app.cell
def _():
    save = mo.ui.run_button(label="Save the report")
    save
    return (save,)


@app.cell
def _(config, files, form, live, rates, run_now, save):
    mo.stop(not run_now and not save.value)
    with errors_in_words():
        _out = write_exploration(chosen_settings(config, form), files, live, rates)
    mo.md(f"Saved: `{_out / 'report.html'}`, and every number in `explorer.json` beside it.")
    return


if __name__ == "__main__":
    app.run()
