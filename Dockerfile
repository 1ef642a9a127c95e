# The service of OpenHART. Build arguments: VARIANT=cpu (default) or VARIANT=cu130 for NVIDIA GPUs, whose
# name is a folder of PyTorch's package index; EXTRAS, such as EXTRAS=serve,ray; TORCH_INDEX, a mirror of that folder.
#   docker build --tag openhart .
#   docker build --tag openhart:cuda --build-arg VARIANT=cu130 .
FROM python:3.11-slim AS build
ARG VARIANT=cpu
ARG EXTRAS=serve
ARG TORCH_INDEX=https://download.pytorch.org/whl/${VARIANT}
RUN python -m venv /opt/openhart
ENV PATH=/opt/openhart/bin:$PATH
WORKDIR /build
COPY constraints.txt ./
# constraints.txt has the version.
# hadolint ignore=DL3013
RUN torch="$(sed -n 's/^torch==\([0-9.]*\).*/torch==\1/p' constraints.txt)" \
    && pip install --no-cache-dir --index-url "${TORCH_INDEX}" "${torch}"
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]" \
    && find /opt/openhart -name __pycache__ -prune -exec rm -r {} +

FROM python:3.11-slim
ENV PATH=/opt/openhart/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HOME=/cache
RUN useradd --uid 10001 --create-home openhart && install --directory --owner openhart /cache /models
COPY --from=build /opt/openhart /opt/openhart
USER 10001
WORKDIR /home/openhart
VOLUME ["/cache", "/models"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["openhart"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
