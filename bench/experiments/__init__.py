"""Studies on real data: training, SSRA, quantisation, export."""
