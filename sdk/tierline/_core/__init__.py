"""The pure core: told the time, handed the dice, it returns commands and never acts."""
