"""Networks that are only run, made faster: batch norm folded into convolutions, half precision."""
