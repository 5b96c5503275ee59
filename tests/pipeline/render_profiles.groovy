// Renders the configuration of many choices of profiles in one JVM: `nextflow config` costs 4 s, of which 3.5 s are its start.
//   groovy render_profiles.groovy PROJECT OUT.json PROFILES...     PROFILES as for -profile; '-' is none
def (project, out) = args.take(2)
def console = System.out
def rendered = args.drop(2).collectEntries { profiles ->
    def text = new ByteArrayOutputStream()
    System.out = new PrintStream(text)
    def chosen = profiles == '-' ? [] : ['-profile', profiles]
    def status = new nextflow.cli.Launcher().command(['config', *chosen, '-o', 'json', project] as String[]).run()
    System.out = console
    // The next call starts the plugin system anew.
    nextflow.plugin.Plugins.stop()
    // The strict parser of 25.04.0 prints false warnings before the JSON.
    def json = text.toString().readLines().dropWhile { line -> line != '{' }.join('\n')
    [profiles, status == 0 ? new groovy.json.JsonSlurper().parseText(json) : [error: text.toString()]]
}

// What a GPU task's options become, engine by engine: closures are rendered as their source text.
def closure = { text, params, engine, executor, gpu ->
    def task = [cpus: 2, executor: executor, accelerator: gpu ? [request: 1] : null, ext: [:]]
    def names = [params: params, task: task, projectDir: java.nio.file.Path.of('/pro ject'),
        workflow: [containerEngine: engine, launchDir: java.nio.file.Path.of('/lau nch')]]
    new GroovyShell(new Binding(names)).evaluate("return ${text}").call()
}
def options = ['docker', 'podman', 'singularity', 'apptainer', 'charliecloud', null].collectMany { engine ->
    [true, false].collect { gpu ->
        def process = rendered['-']?.process
        def gpu_tasks = process?.get('withLabel:process_gpu')
        !process ? null : [
            engine: engine, gpu: gpu,
            containerOptions: closure(gpu_tasks.containerOptions, [:], engine, 'local', gpu),
            beforeScript: closure(process.beforeScript, [outdir: "it's"], engine, gpu ? 'local' : 'slurm', true),
        ]
    }
}
new File(out).text = groovy.json.JsonOutput.toJson([rendered: rendered, options: options])
