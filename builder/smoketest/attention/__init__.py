"""What is called, with what, and what is right: kernels, cases, inputs, fp32 attention, tolerances."""
