"""Every error a user can meet, one tree. A message names the file or key, the value, the limit and the knob.

DualpathError            exit code 3: the input cannot be used; nothing was lost
  TraceError             a trace file, its rows, or an import source
  ClusterError           a cluster file, or a cluster that cannot hold the work
  ModelError             a checkpoint that is incomplete, or of a model that cannot be run
  StoreError             the block store's directory
    CorruptBlockError    a block whose bytes do not match the checksum written with it
  PlanError              options of a run that cannot be
  RunError               a run directory that cannot be read or written
  WorkerError            a process of ours that failed or died: exit code 2, the run is void
"""

from __future__ import annotations


class DualpathError(Exception):
    """Base of all errors that are the input's or the machine's, not ours."""


class TraceError(DualpathError):
    """A trace that is missing, malformed, or outside its limits."""


class ClusterError(DualpathError):
    """A cluster description that is malformed or cannot hold the work."""


class ModelError(DualpathError):
    """A checkpoint that is incomplete, or of a model that cannot be run."""


class StoreError(DualpathError):
    """A block store that cannot be opened, read or written."""


class CorruptBlockError(StoreError):
    """A block whose bytes do not match the checksum written with it."""


class PlanError(DualpathError):
    """Options of a run that cannot be, or contradict each other."""


class RunError(DualpathError):
    """A run directory that cannot be read or written."""


class WorkerError(DualpathError):
    """An engine's or another process of ours that failed or died."""
