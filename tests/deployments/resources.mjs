// Custom resources against their operators' schemas: reads a JSON list on standard input, prints a line per resource.
import { text } from "node:stream/consumers";

import * as keda from "@kubernetes-models/keda/keda.sh/v1alpha1";
import * as monitoring from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

const models = { "keda.sh/v1alpha1": keda, "monitoring.coreos.com/v1": monitoring };
let wrong = 0;
for (const resource of JSON.parse(await text(process.stdin))) {
  const name = `${resource.kind}/${resource.metadata.name}`;
  const Model = models[resource.apiVersion]?.[resource.kind];
  try {
    if (!Model) throw new Error(`no schema for ${resource.apiVersion}`);
    new Model(resource).validate();
    console.log(`${name}: as ${resource.apiVersion} says`);
  } catch (error) {
    console.log(`${name}: ${error.message}`);
    wrong += 1;
  }
}
process.exit(wrong ? 1 : 0);
