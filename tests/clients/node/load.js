// What every Node.js client does: workers that send a burst of requests, are silent, and begin again. ../README.md has the
// variables that are read here and the lines that are written.
'use strict'

const fs = require('node:fs')
const { setTimeout: sleep } = require('node:timers/promises')

const env = process.env
const connections = Number(env.CLIENT_CONNECTIONS)
const burst = Number(env.CLIENT_BURST)
const think = [Number(env.CLIENT_THINK_MIN_MS), Number(env.CLIENT_THINK_MAX_MS)]
const ca = env.CLIENT_CA ? fs.readFileSync(env.CLIENT_CA) : undefined
const origin = `${ca ? 'https' : 'http'}://${env.CLIENT_TARGET}`

// Milliseconds until a request without an answer is an error.
const patience = 10_000

const stop = new AbortController()
const uniform = (from, to) => from + Math.random() * (to - from)
const say = (...words) => process.stdout.write(words.join(' ') + '\n')
// Ends early, and quietly, once the client shall stop.
const silence = (ms) => sleep(ms, undefined, { signal: stop.signal }).catch(() => {})

async function work (worker, prepare) {
  const ask = prepare()
  let next = 0
  await silence(uniform(0, think[1]))
  while (!stop.signal.aborted) {
    for (let n = 0; n < burst; n++) {
      const id = `${worker}-${next++}`
      say('sent', id)
      try {
        const answer = await ask(id)
        if (answer === id) say('ok', id)
        else say('error', id, `answered ${JSON.stringify(answer)}`)
      } catch (error) {
        say('error', id, `${error.code ?? error.name}: ${error.message}`.replaceAll('\n', ' '))
      }
    }
    await silence(uniform(...think))
  }
}

// Runs a worker for each connection. `prepare` is called for each and returns `ask(id)`, a promise of the answer.
async function run (name, version, prepare) {
  say('library', name, version)
  process.stdin.resume().on('end', () => stop.abort())
  await Promise.all(Array.from({ length: connections }, (_, worker) => work(worker, prepare)))
  process.exit(0)
}

module.exports = { ca, origin, patience, run }
