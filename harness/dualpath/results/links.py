"""What the links carried: bytes per resource, utilisation of each NIC over time, balance of storage NICs."""

from __future__ import annotations

import polars as pl

from dualpath.results.metrics import METRICS
from dualpath.results.run import Run
from dualpath.results.steady import Window, steady_window

LOAD_ROUTES = ("prefill", "decode")  # rows of these routes are hit KV; the others are `miss` and `persist`
LOAD_DIRECTION = "read"  # of a SNIC: from storage (core/hops.py)
BALANCE_WINDOW_NS = 1_000_000_000


def nics(run: Run, resource: str) -> pl.DataFrame:
    """Every NIC of the cluster, used or not: unit, nic, rate_bytes_per_s.

    `unit` is the node of a SNIC or the engine of a CNIC, `nic` its name.
    """
    cluster = run.cluster
    if resource == "snic":
        names = [run.node_name(node) for node in range(run.num_nodes)]
        rate = cluster.snic_bytes_per_s
    else:
        engines = sum(side.nodes * side.engines_per_node for side in (cluster.prefill, cluster.decode))
        names = [run.engine_name(engine) for engine in range(engines)]
        rate = cluster.cnic_bytes_per_s
    return pl.DataFrame(
        {"unit": range(len(names)), "nic": names, "rate_bytes_per_s": [rate] * len(names)},
        schema={"unit": pl.Int32, "nic": pl.String, "rate_bytes_per_s": pl.Float64},
    )


def utilisation(run: Run, resource: str, *, width_ns: int | None = None) -> pl.DataFrame:
    """Every NIC in both directions over time: unit, nic, direction, start_ns, width_ns, bytes, utilisation.

    A bucket without a row carried nothing and counts as 0. `width_ns` merges buckets (rounded down to whole
    ones). Utilisation is null where the NIC is native (it has no rate).
    """
    bucket_ns = run.manifest.bucket_ns
    width_ns = max(1, (width_ns or bucket_ns) // bucket_ns) * bucket_ns
    unit = "node" if resource == "snic" else "engine"
    carried = (
        run.links.filter(pl.col("resource") == resource)
        .with_columns((pl.col("bucket_ns") // width_ns * width_ns).alias("start_ns"), pl.col(unit).alias("unit"))
        .group_by("unit", "direction", "start_ns")
        .agg(pl.col("bytes").sum())
        .collect()
    )
    last = run.links.select(pl.col("bucket_ns").max()).collect().item()
    starts = pl.DataFrame({"start_ns": range(0, (last or 0) + 1, width_ns)}, schema={"start_ns": pl.Int64})
    directions = pl.DataFrame({"direction": ["read", "write"]})
    return (
        nics(run, resource)
        .join(directions, how="cross")
        .join(starts, how="cross")
        .join(carried, on=["unit", "direction", "start_ns"], how="left")
        .with_columns(pl.col("bytes").fill_null(0), pl.lit(width_ns, pl.Int64).alias("width_ns"))
        .with_columns(METRICS["utilisation"].expr)
        .sort("unit", "direction", "start_ns")
    )


def window_utilisation(run: Run, resource: str, window: Window) -> pl.DataFrame | None:
    """Every NIC in both directions over `window`: unit, nic, direction, bytes, utilisation.

    Only whole buckets inside the window count; None where no whole bucket fits.
    """
    inside = utilisation(run, resource).filter(
        pl.col("start_ns") >= window.start_ns,
        pl.col("start_ns") + pl.col("width_ns") <= window.end_ns,
    )
    if inside.is_empty():
        return None
    return (
        inside.group_by("unit", "nic", "direction")
        .agg(pl.col("bytes").sum(), pl.col("width_ns").sum(), pl.col("rate_bytes_per_s").first())
        .with_columns(METRICS["utilisation"].expr)
        .select("unit", "nic", "direction", "bytes", "utilisation")
        .sort("unit", "direction")
    )


def steady_load_utilisation(run: Run) -> dict[str, float | None] | None:
    """{SNIC name: utilisation of its read direction in the steady window}; None where there is no window."""
    window = steady_window(run)
    frame = window_utilisation(run, "snic", window) if window else None
    if frame is None:
        return None
    loading = frame.filter(pl.col("direction") == LOAD_DIRECTION)
    return dict(loading.select("nic", "utilisation").iter_rows())


def balance(run: Run, *, window_ns: int = BALANCE_WINDOW_NS) -> pl.DataFrame:
    """Storage-NIC max/avg per window: start_ns, balance. Windows in which nothing was loaded have no row.

    Over all SNICs of the cluster, also those the arm may not read with: leaving links idle is what the number
    is about. 1 is perfect, the number of SNICs is the worst.
    """
    loads = (
        run.links.filter(pl.col("resource") == "snic", pl.col("route").is_in(LOAD_ROUTES))
        .group_by((pl.col("bucket_ns") // window_ns * window_ns).alias("start_ns"), pl.col("node").alias("unit"))
        .agg(pl.col("bytes").sum())
        .collect()
    )
    busy = loads.group_by("start_ns").agg(pl.col("bytes").sum()).filter(pl.col("bytes") > 0).select("start_ns")
    return (
        busy.join(nics(run, "snic").select("unit"), how="cross")
        .join(loads, on=["start_ns", "unit"], how="left")
        .with_columns(pl.col("bytes").fill_null(0))
        .group_by("start_ns")
        .agg(METRICS["balance"].expr)
        .sort("start_ns")
    )


def steady_balance(run: Run, *, window_ns: int = BALANCE_WINDOW_NS) -> float | None:
    """Mean of `balance` over the windows that begin inside the steady window; None where there are none."""
    window = steady_window(run)
    if window is None:
        return None
    inside = balance(run, window_ns=window_ns).filter(
        pl.col("start_ns") >= window.start_ns, pl.col("start_ns") < window.end_ns
    )
    return None if inside.is_empty() else float(inside.select(pl.col("balance").mean()).item())
