"""The environment of the judge host: what LLM providers need, and nothing else of the engine's."""

from __future__ import annotations

import re
from collections.abc import Mapping

# What a process needs, proxies and certificates too
_SYSTEM = {
    *("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR"),
    *("TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
}
# Providers, by their own names and by those that MLflow and litellm give them: AWS_REGION, ...
_PROVIDER = re.compile(
    r"(AI21|ANTHROPIC|AWS|AZURE|BEDROCK|CEREBRAS|COHERE|DATABRICKS|DEEPSEEK|FIREWORKS|GEMINI|GCP"
    r"|GOOGLE|GROQ|HF|HUGGINGFACE|LITELLM|MISTRAL|NVIDIA_NIM|OLLAMA|OPENAI|OPENROUTER|PERPLEXITY"
    r"|PORTKEY|REPLICATE|SAP_AI_CORE|TOGETHER|TOGETHERAI|TYPESAFE|VERTEX|VERTEXAI|WATSONX|XAI)_\w+"
)
# Those of which litellm wants no more than a key and an address: FRIENDLIAI_API_KEY, ...
_KEY_AND_ADDRESS = re.compile(
    r"(AIHUBMIX|AIML|ALEPHALPHA|ALEPH_ALPHA|ANYSCALE|BASETEN|CLARIFAI|CLOUDFLARE|CODESTRAL"
    r"|COMETAPI|CRUSOE|DASHSCOPE|DEEPINFRA|DOCKER_MODEL_RUNNER|FEATHERLESS_AI|FIREWORKSAI"
    r"|FRIENDLIAI|GALADRIEL|GIGACHAT|GITHUB|GMI|GRADIENT_AI|HEROKU|HOSTED_VLLM|HYPERBOLIC"
    r"|INCEPTION|INFINITY|LAMBDA|LAMBDA_AI|LEMONADE|LIBERTAI|LLAMA|LLAMAFILE|LLAMAGATE|LM_STUDIO"
    r"|MARITALK|META_LLAMA|MINIMAX|MOONSHOT|MORPH|NEBIUS|NLP_CLOUD|NOVITA|NSCALE|NVIDIA|OOBABOOGA"
    r"|OVHCLOUD|PALM|PERPLEXITYAI|PREDIBASE|PUBLICAI|SAMBANOVA|SARVAM|SCALEWAY|SNOWFLAKE|SYNTHETIC"
    r"|TENCENT|V0|VERCEL_AI_GATEWAY|VLLM|VOLCENGINE|WANDB|WX|XINFERENCE|XIAOMI_MIMO|ZAI"
    r")_(API_KEY|API_BASE|BASE_URL|API_VERSION)"
)
# Judges' own settings; not the store's URI, nor who may log in there
_MLFLOW = re.compile(r"MLFLOW_(GENAI|JUDGE|GATEWAY|DEPLOYMENTS|MODEL_CATALOG)_\w+")


def judge_environment(
    environment: Mapping[str, str], tracking_uri: str | None, timeout: float
) -> dict[str, str]:
    """The whole environment of the judge host, given the engine's.

    Args:
        tracking_uri: where the server answers: judges that look at a trace with tools may look at
            others, and models named `gateway:/...` are there.
        timeout: seconds for one request to a provider that sets no limit of its own.
    """
    passed_on = {
        name: value
        for name, value in environment.items()
        if name in _SYSTEM or _is_for_judges(name)
    }
    return {
        # Prices come with MLflow; by default it would fetch them from the internet
        "MLFLOW_MODEL_CATALOG_URI": "",
        "MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS": str(round(timeout)),
        **passed_on,
        **({"MLFLOW_TRACKING_URI": tracking_uri} if tracking_uri else {}),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Third-party scorers tell their makers of each use
        "DEEPEVAL_TELEMETRY_OPT_OUT": "YES",
        "RAGAS_DO_NOT_TRACK": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # litellm would fetch its prices, too
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _is_for_judges(name: str) -> bool:
    if name.startswith("VEDETTE_"):
        return False
    return any(pattern.fullmatch(name) for pattern in (_PROVIDER, _KEY_AND_ADDRESS, _MLFLOW))
