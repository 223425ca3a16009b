import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="How small can a vector be?")

with app.setup:
    import json
    import urllib.request

    import marimo as mo
    import plotly.graph_objects as go


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # How small can a vector be?

    An embedder turns a text into some hundred numbers. They can be stored with fewer **bits** per number or with fewer
    **dimensions**; the query may be stored the same way (*symmetric*) or stay as it is (*float queries*); and what a
    small code finds can be **rescored** with a larger one. Everything here was computed beforehand and runs in your
    browser; `notebooks/storage_explorer.py` does the same live, with a corpus and a model of your own.
    """)
    return


@app.cell
def _():
    # Made by `python -m workbench.explorer.page`. In a browser the location is an address, otherwise a folder.
    _location = str(mo.notebook_location() / "public" / "explorer.json")
    with urllib.request.urlopen(_location) if "://" in _location else open(_location, "rb") as _file:
        data = json.load(_file)
    return (data,)


@app.cell
def _(data):
    file = mo.ui.dropdown(list(data["retention"]), next(iter(data["retention"])), label="Results")
    mo.vstack([mo.md("## What is kept\n\nLines join the ways to store that nothing smaller equals."), file])
    return (file,)


@app.cell
def _(data, file):
    _bases = list(data["retention"][file.value])
    base = mo.ui.radio(_bases, _bases[-1], label="100 % is", inline=True)
    base
    return (base,)


@app.cell
def _(base, data, file):
    go.Figure(data["retention"][file.value][base.value])
    return


@app.cell
def _(data):
    scoring = mo.ui.radio(list(data["recall"]), "float queries", label="Scoring", inline=True)
    rescore = mo.ui.dropdown(list(data["recall"]["float queries"]), "nothing", label="Rescore with")
    mo.vstack([mo.md(f"## On a corpus\n\n{data['about']}."), scoring, rescore])
    return rescore, scoring


@app.cell
def _(data, rescore, scoring):
    choices = data["recall"][scoring.value][rescore.value]
    oversampling = mo.ui.dropdown(list(choices), next(iter(choices)), label="Candidates per neighbour")
    oversampling if rescore.value != "nothing" else None
    return choices, oversampling


@app.cell
def _(choices, oversampling):
    _shown = choices[oversampling.value]
    mo.vstack([go.Figure(_shown["figure"]), mo.md(_shown["verdict"])])
    return


@app.cell
def _(data):
    query = mo.ui.dropdown(list(data["neighbours"]), next(iter(data["neighbours"])), label="Query")
    mo.vstack([mo.md("## What a query returns"), query])
    return (query,)


@app.cell
def _(data, query):
    mo.Html(data["neighbours"][query.value])
    return


@app.cell
def _(data):
    vectors = mo.ui.dropdown(
        {f"{int(count):,}": count for count in data["plans"]}, "100,000,000", label="Vectors"
    )
    measure = mo.ui.dropdown(list(next(iter(data["plans"].values()))["figures"]), "Memory", label="Show")
    memory_price = mo.ui.number(0, 1000, value=3.0, step=0.01, label="Price of a GB of memory, per month")
    disk_price = mo.ui.number(0, 1000, value=0.1, step=0.01, label="Price of a GB of disk, per month")
    mo.vstack(
        [
            mo.md("## A plan"),
            mo.hstack([vectors, measure], wrap=True, justify="start"),
            mo.hstack([memory_price, disk_price], wrap=True, justify="start"),
        ]
    )
    return disk_price, measure, memory_price, vectors


@app.cell
def _(data, disk_price, measure, memory_price, vectors):
    plan = data["plans"][vectors.value]
    costs = [
        row | {"money_per_month": memory_price.value * row["memory_gb"] + disk_price.value * row["disk_gb"]}
        for row in plan["rows"]
    ]
    mo.vstack([go.Figure(plan["figures"][measure.value]), mo.ui.table(costs, selection=None, page_size=40)])
    return


if __name__ == "__main__":
    app.run()
