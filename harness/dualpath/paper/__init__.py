"""The paper, number by number: one file per figure or table, each with what to run and what to make of it."""
