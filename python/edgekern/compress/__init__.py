"""One recipe in, a compressed model out: stages that prune, distil, train, quantise and evaluate, one by one."""
