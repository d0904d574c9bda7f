# The project and its environment for any user:
#   docker build -t vit .
#   docker run --rm --user 12345 --volume vit:/project vit make demo
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git make python3-venv \
    && rm -rf /var/lib/apt/lists/*

# A clone, because DVC keeps each experiment beside a commit. .dockerignore leaves nothing but .git.
COPY .git /clone/.git
WORKDIR /project
RUN git clone --quiet /clone . \
    && make setup \
    && rm -rf ~/.cache \
    && mkdir .home \
    && chmod -R a+rwX /project \
    && git config --system --add safe.directory /project

ENV PATH=/project/.venv/bin:$PATH HOME=/project/.home USER=vit DVC_SITE_CACHE_DIR=/project/.home/dvc
USER 1000
CMD ["make", "demo"]
