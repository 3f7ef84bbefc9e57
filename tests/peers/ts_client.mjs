/**
 * Drives the TypeScript SDK's client through every scenario and prints what it saw.
 *
 * The other half of python_client.py: the same jobs (clients.run_driver), the same scenarios, the
 * same lines. Run as `node ts_client.mjs SDK JOBS`, where SDK is the folder of the SDK.
 */
import { randomUUID } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const [sdk, jobs] = process.argv.slice(2);
const load = module => import(pathToFileURL(`${sdk}/dist/esm/${module}`).href);
const { Client } = await load('client/index.js');
const { SSEClientTransport } = await load('client/sse.js');
const { StreamableHTTPClientTransport } = await load('client/streamableHttp.js');
const types = await load('types.js');

const SCENARIO_WITHIN_MS = 30_000;
const IN_FLIGHT = 5;

/** One client, and everything that the server told or asked it. */
class Peer {
  logs = [];
  updated = [];
  sampled = [];
  elicited = [];
  rootsAsked = 0;
  #news = [];

  constructor(url, mode, name) {
    this.url = url;
    this.mode = mode;
    this.name = name;
    this.client = new Client(
      { name, version: '1' },
      { capabilities: { sampling: {}, elicitation: {}, roots: {} } },
    );
    // Settled when the session's own stream is open: before that, what it carries is lost.
    this.listening = new Promise(resolve => { this.opened = resolve; });
    this.client.setRequestHandler(types.CreateMessageRequestSchema, ({ params }) => {
      const { text } = [params.messages[0].content].flat()[0];
      this.sampled.push(text);
      const content = { type: 'text', text: `${name} answers ${text}` };
      return { role: 'assistant', model: 'none', content };
    });
    this.client.setRequestHandler(types.ElicitRequestSchema, ({ params }) => {
      this.elicited.push(params.message);
      return { action: 'accept', content: { username: name, email: `${name}@example.org` } };
    });
    this.client.setRequestHandler(types.ListRootsRequestSchema, () => {
      this.rootsAsked += 1;
      return { roots: [{ uri: `file:///${name}`, name: 'home' }] };
    });
    this.client.setNotificationHandler(types.LoggingMessageNotificationSchema, ({ params }) => {
      this.logs.push(String(params.data));
      this.#tell();
    });
    this.client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, ({ params }) => {
      this.updated.push(params.uri);
      this.#tell();
    });
  }

  async connect() {
    if (this.mode === 'sse') { // the one stream is open from the beginning
      this.opened();
      this.transport = new SSEClientTransport(new URL(this.url));
      await this.client.connect(this.transport);
      return this;
    }
    const watched = async (target, init) => {
      const response = await fetch(target, init);
      if (init?.method === 'GET' && response.status === 200) this.opened();
      return response;
    };
    this.transport = new StreamableHTTPClientTransport(new URL(this.url), { fetch: watched });
    await this.client.connect(this.transport);
    return this;
  }

  async close() {
    await this.transport.terminateSession?.();
    await this.client.close();
  }

  /** Call a planned tool and return its text; values replace their upper-case names. */
  async call({ tool, arguments: given }, values = {}, options = {}) {
    const filled = Object.entries(given).map(([key, value]) => [key, values[value] ?? value]);
    const params = { name: tool, arguments: Object.fromEntries(filled) };
    const { content } = await this.client.callTool(params, undefined, options);
    return content.filter(part => part.type === 'text').map(part => part.text).join('');
  }

  /** Call a planned tool of one argument with that value. */
  say({ tool, argument }, value) {
    return this.call({ tool, arguments: { [argument]: value } });
  }

  /** Wait for news until something holds. */
  async until(holds) {
    while (!holds()) await new Promise(resolve => { this.#news.push(resolve); });
  }

  #tell() {
    this.#news.splice(0).forEach(resolve => resolve());
  }
}

const scenarios = {
  async initialize({ client, transport }) {
    return {
      protocol: transport.protocolVersion ?? transport._protocolVersion,
      server: client.getServerVersion().name,
      capabilities: Object.keys(client.getServerCapabilities()).sort(),
    };
  },

  async lists({ client }) {
    const { tools } = await client.listTools();
    const { prompts } = await client.listPrompts();
    const { resources } = await client.listResources();
    return {
      tools: tools.map(tool => tool.name),
      prompts: prompts.map(prompt => prompt.name),
      resources: resources.map(resource => resource.uri),
    };
  },

  async progress(peer, plan) {
    const progress = [];
    const onprogress = ({ progress: value, total }) => { progress.push([value, total]); };
    const answer = await peer.call(plan.progress, {}, { onprogress });
    return { progress, answer };
  },

  async cancellation(peer, plan) {
    const mark = randomUUID();
    const answers = [];
    const cancel = new AbortController();
    const options = { signal: cancel.signal, onprogress: () => cancel.abort('enough') };
    try {
      answers.push(await peer.call(plan.endless, { MARK: mark }, options));
    } catch (error) {
      if (!cancel.signal.aborted) throw error;
    }
    const server = plan.cancelled && await peer.call(plan.cancelled, { MARK: mark });
    return { answers, server, after: await peer.say(plan.echo, mark) };
  },

  async sampling(peer, plan) {
    const answer = await peer.say(plan.sampling, 'How many?');
    return { asked: peer.sampled, answer };
  },

  async elicitation(peer, plan) {
    const answer = await peer.call(plan.elicitation);
    return { asked: peer.elicited, answer };
  },

  async roots(peer, plan) {
    await peer.listening;
    const answers = [];
    for (const root of plan.roots) answers.push(await peer.call(root));
    return { asked: peer.rootsAsked, answers };
  },

  /** What the tools say that would ask this client, where it cannot be asked. */
  async refusals(peer, plan) {
    const said = {};
    for (const [name, planned] of Object.entries(plan.asking)) {
      said[name] = await peer.call(planned).catch(error => error.message);
    }
    return said;
  },

  /** Make the server log, first below the level that was set; no tool planned: by subscribing. */
  async logging(peer, plan) {
    await peer.listening;
    const matching = () => peer.logs.filter(log => log.includes(plan.logging.match));
    const provoke = () => (plan.logging.tool
      ? peer.call(plan.logging)
      : peer.client.subscribeResource({ uri: 'test://logged' }));
    await peer.client.setLoggingLevel('emergency');
    await provoke();
    const quiet = matching();
    await peer.client.setLoggingLevel('debug');
    await provoke();
    await peer.until(() => matching().length >= plan.logging.count);
    return { quiet, loud: matching().slice(quiet.length) };
  },

  async subscription(peer, plan) {
    await peer.listening;
    const uri = `test://${randomUUID()}`;
    await peer.client.subscribeResource({ uri });
    const touched = [await peer.call(plan.touch, { URI: uri })];
    await peer.until(() => peer.updated.includes(uri));
    await peer.client.unsubscribeResource({ uri });
    touched.push(await peer.call(plan.touch, { URI: uri }));
    return { uri, updated: peer.updated, touched };
  },

  /** Two more clients at once, each with several calls and questions in flight. */
  async two_clients({ url, mode }, plan) {
    const busy = async name => {
      const other = await new Peer(url, mode, name).connect();
      const numbers = [...Array(IN_FLIGHT).keys()];
      const echoes = numbers.map(n => other.say(plan.echo, `${name} says ${n}`));
      const ask = n => other.say(plan.sampling, `${name} asks ${n}`);
      const asks = plan.asks ? numbers.map(ask) : [];
      const echoed = await Promise.all(echoes);
      const answers = await Promise.all(asks);
      await other.close();
      return [name, { echoed, asked: other.sampled, answers }];
    };
    return Object.fromEntries(await Promise.all([busy('left'), busy('right')]));
  },
};

/** The value of a promise, or an error after SCENARIO_WITHIN_MS. */
const inTime = promise => new Promise((resolve, reject) => {
  const late = setTimeout(() => reject(new Error('not in time')), SCENARIO_WITHIN_MS);
  promise.then(resolve, reject).finally(() => clearTimeout(late));
});

const play = async ({ name, target, mode, plan, scenarios: chosen }) => {
  const tell = line => console.log(JSON.stringify({ job: name, ...line }));
  const failed = (scenario, error) => tell({ scenario, error: String(error.stack ?? error) });
  try {
    const peer = await inTime(new Peer(target, mode, 'peer').connect());
    for (const scenario of chosen) {
      try {
        tell({ scenario, saw: await inTime(scenarios[scenario](peer, plan)) });
      } catch (error) {
        failed(scenario, error);
      }
    }
    await peer.close();
    tell({ scenario: 'end', saw: {} });
  } catch (error) {
    failed('end', error);
  }
};

await Promise.all(JSON.parse(jobs).map(play));
// A stream that the end of the session ended is resumed by the SDK for seconds after its close.
process.exit();
