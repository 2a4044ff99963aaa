# One image, two commands: dist/src/main.js (the API) and dist/workers/main.js (the worker).
FROM node:22.21.1-bookworm-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
# Scripts of packages are never run (S1).
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY tsconfig.json ./
COPY src ./src
COPY workers ./workers
RUN node node_modules/typescript/bin/tsc -p tsconfig.json && npm prune --omit=dev --ignore-scripts --no-audit --no-fund

FROM node:22.21.1-bookworm-slim
ENV NODE_ENV=production
WORKDIR /app
# All of it is root's and read-only for the user that runs it.
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
COPY package.json LICENSE ./
COPY bin ./bin
COPY migrations ./migrations
COPY config ./config
USER 1000:1000
EXPOSE 8787
# No prototype to pollute, no text that becomes code, no inspector by signal (H20, K12, K13).
ENTRYPOINT ["node", "--disable-proto=delete", "--disallow-code-generation-from-strings", "--disable-sigusr1"]
CMD ["dist/src/main.js"]
