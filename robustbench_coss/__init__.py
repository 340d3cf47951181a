"""robustbench-coss: pretrain CO-SSL encoders and measure how robust any vision encoder is."""

__version__ = "0.1.0"
